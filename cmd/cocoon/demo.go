package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/demo"
)

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Do the whole job in front of you, in folders that are removed afterwards", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			d := &demo.Demo{Self: self, VMM: a.set("hypervisor"), Simulator: filepath.Join(filepath.Dir(self), "cocoon-chsim"), CPUArgs: a.set("cpuArgs"), Out: a.out.Text()}
			return d.Run(c.Context())
		},
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/engine/demo"
)

// undemoVerb is the hidden command that cleans up after a dead demo.
const undemoVerb = "__undemo"

func newUndemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: undemoVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := chsnap.Guarding(a.tell)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if abandoned, err := w.Abandoned(); err != nil || !abandoned {
				return err
			}
			return a.demo(self).Clear(args[0])
		},
	}
}

func (a *app) demo(self string) *demo.Demo {
	return &demo.Demo{Self: self, VMM: a.set("hypervisor"), Simulator: filepath.Join(filepath.Dir(self), "cocoon-chsim"), CPUArgs: a.set("cpuArgs"), Out: a.out.Text()}
}

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Show the whole job in temporary folders: save, remove, rebuild, clone, collect", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			wait, err := a.config.Patience()
			if err != nil {
				return err
			}
			d := a.demo(self)
			d.Guard = func(dir string) (func(), error) {
				g, err := chsnap.Watch(wait, a.stderr, func() *exec.Cmd { return exec.Command(self, undemoVerb, dir) })
				if err != nil {
					return nil, err
				}
				return g.Release, nil
			}
			return d.Run(c.Context())
		},
	}
}

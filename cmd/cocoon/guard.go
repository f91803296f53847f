package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// guardVerb is the hidden command that resumes a VM when the process which
// paused it dies. chsnap starts it with a pipe as descriptor 3.
const guardVerb = "__guard"

func newGuard(*app) *cobra.Command {
	return &cobra.Command{
		Use: guardVerb, Hidden: true, Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			pipe := os.NewFile(3, "guard pipe")
			if pipe == nil {
				return failure.New(failure.Usage, "%s is started by cocoon itself", guardVerb)
			}
			return chsnap.RunGuard(args, pipe)
		},
	}
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// newGuard is the hidden command that resumes a VM if the process that paused it
// dies or is stopped. chsnap starts it.
func newGuard(a *app) *cobra.Command {
	return &cobra.Command{
		Use: house.GuardVerb, Hidden: true, Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := chsnap.Guarding(a.tell)
			if err != nil {
				return err
			}
			return chsnap.RunGuard(args, w)
		},
	}
}

// tell reports on stderr what is no failure.
func (a *app) tell(text string) { a.errOut.Line("cocoon: %s", text) }

// newRescue is the hidden command that wakes a VM if the process that put it
// aside dies or is stopped.
func newRescue(a *app) *cobra.Command {
	return &cobra.Command{
		Use: house.RescueVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := chsnap.Guarding(a.tell)
			if err != nil {
				return err
			}
			abandoned, err := w.Abandoned()
			if err != nil || !abandoned {
				return err
			}
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			return r.RescueAfter(c.Context(), args[0])
		},
	}
}

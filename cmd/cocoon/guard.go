package main

import (
	"context"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/config"
	"github.com/cocoonv2/cocoon/internal/patience"
)

// guardVerb is the hidden command that resumes a VM when the process which
// paused it dies or stands still. chsnap starts it.
const guardVerb = "__guard"

func newGuard(a *app) *cobra.Command {
	return &cobra.Command{
		Use: guardVerb, Hidden: true, Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := chsnap.Guarding(a.tell)
			if err != nil {
				return err
			}
			return chsnap.RunGuard(args, w)
		},
	}
}

// tell says on stderr what is no failure of ours.
func (a *app) tell(text string) { a.errOut.Line("cocoon: %s", text) }

// rescueVerb is the hidden command that lets a VM go on when the process which
// put it aside dies or stands still.
const rescueVerb = "__rescue"

func newRescue(a *app) *cobra.Command {
	return &cobra.Command{
		Use: rescueVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
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
			return r.vms.RescueAfter(c.Context(), args[0], r.wake)
		},
	}
}

// startRescue starts it, with the settings of this command.
func (a *app) startRescue(ctx context.Context, p patience.Patience, self, id string) (release func(), err error) {
	g, err := chsnap.Watch(p, a.stderr, func() *exec.Cmd {
		cmd := exec.Command(self, rescueVerb, id)
		cmd.Env = a.environment()
		return cmd
	})
	if err != nil {
		return nil, err
	}
	if err := g.Arm(ctx); err != nil {
		g.Release()
		return nil, err
	}
	return g.Release, nil
}

// environment is ours, with each setting as it was settled.
func (a *app) environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COCOON_") {
			env = append(env, e)
		}
	}
	for _, s := range config.Settings() {
		if strings.HasPrefix(s.Key, "prune.") {
			continue // no child prunes, and a list of the file may have commas in its elements
		}
		if v := a.set(s.Key); s.Env != "" && v != "" {
			env = append(env, s.Env+"="+v)
		}
	}
	return env
}

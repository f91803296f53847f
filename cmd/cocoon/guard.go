package main

import (
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/config"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// guardVerb is the hidden command that resumes a VM when the process which
// paused it dies. chsnap starts it with a pipe as descriptor 3.
const guardVerb = "__guard"

func newGuard(*app) *cobra.Command {
	return &cobra.Command{
		Use: guardVerb, Hidden: true, Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			pipe, err := guardPipe(guardVerb)
			if err != nil {
				return err
			}
			return chsnap.RunGuard(args, pipe)
		},
	}
}

func guardPipe(verb string) (*os.File, error) {
	pipe := os.NewFile(3, "guard pipe")
	if pipe == nil {
		return nil, failure.New(failure.Usage, "%s is started by cocoon itself", verb)
	}
	return pipe, nil
}

// rescueVerb is the hidden command that lets a VM go on when the process which
// put it aside dies.
const rescueVerb = "__rescue"

func newRescue(a *app) *cobra.Command {
	return &cobra.Command{
		Use: rescueVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			pipe, err := guardPipe(rescueVerb)
			if err != nil {
				return err
			}
			abandoned, err := chsnap.Abandoned(pipe)
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
func (a *app) startRescue(self, id string) (release func() error, err error) {
	cmd := exec.Command(self, rescueVerb, id)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COCOON_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	for _, s := range config.Settings() {
		if v := a.set(s.Key); s.Env != "" && v != "" {
			cmd.Env = append(cmd.Env, s.Env+"="+v)
		}
	}
	g, err := chsnap.Watch(cmd)
	if err != nil {
		return nil, err
	}
	return g.Release, nil
}

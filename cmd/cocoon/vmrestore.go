package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/restore"
)

func newVMRestore(a *app) *cobra.Command {
	var o house.ExchangeOptions
	var dryRun, other bool
	mode := "auto"
	c := &cobra.Command{
		Use: "restore VM SNAPSHOT", Short: "Return a VM to a snapshot; id, name and network stay",
		Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeVMThenSnapshot,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			o.Mode = restore.Mode(mode)
			if !other {
				if err := a.ofItsOwn(c.Context(), r, args[0], args[1], dryRun, o.Backup); err != nil {
					return err
				}
			}
			if dryRun {
				p, err := r.PlanExchange(c.Context(), args[0], args[1], o)
				if err != nil {
					return err
				}
				return a.out.JSON(p)
			}
			loading, saving := a.meter("restoring"), a.meter("packing")
			o.OnLoaded, o.OnSaved = loading.update, saving.update
			backup, err := r.Exchange(c.Context(), args[0], args[1], o)
			loading.end()
			saving.end()
			if err != nil {
				return err
			}
			if backup != "" {
				a.out.Line("%s", backup)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Backup, "backup", false, "keep its former state as a snapshot and print the id")
	f.StringVar(&mode, "restore-mode", mode, "how its RAM is loaded, as in vm create")
	f.BoolVar(&o.AllowIncompatible, "allow-incompatible", false, "try another VMM version or CPU anyway")
	f.StringVar((*string)(&o.Clock), "guest-clock", string(restore.CatchUp), "catch-up: the guest's time of day is right at once; stand-still: its monotonic clock does not jump")
	f.BoolVar(&other, "from-other", false, "also accept a snapshot of another VM, whose guest replaces this one's")
	f.BoolVar(&dryRun, "dry-run", false, "make every check, touch nothing, print the plan")
	return c
}

// ofItsOwn refuses a snapshot of another VM, and one from elsewhere, unless
// confirmed at a terminal.
func (a *app) ofItsOwn(ctx context.Context, h *house.House, vmRef, snapshotRef string, dryRun, backup bool) error {
	err := h.OfItsOwn(ctx, vmRef, snapshotRef)
	var other *house.NotItsOwnError
	if !errors.As(err, &other) || !dryRun && a.confirms(other.Error()+". Go on?") {
		if other != nil {
			return nil
		}
		return err
	}
	remedy := "--from-other if that is meant"
	if !backup {
		remedy += "; --backup keeps the state as a snapshot"
	}
	return failure.Hint(err, remedy)
}

// confirms asks at a terminal; elsewhere the answer is no.
func (a *app) confirms(question string) bool {
	if !a.errOut.Terminal() || !term.IsTerminal(int(os.Stdin.Fd())) {
		return false
	}
	a.errOut.Line("cocoon: %s [y/N]", question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// completeVMThenSnapshot completes the first argument with VMs, the second with
// snapshots.
func (a *app) completeVMThenSnapshot(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeVMs(c, args, prefix)
	}
	return a.completeSnapshots(c, args, prefix)
}

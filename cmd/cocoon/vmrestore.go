package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/hypervisor"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
)

func newVMRestore(a *app) *cobra.Command {
	var o hypervisor.ExchangeOptions
	var dryRun, other bool
	mode := "auto"
	c := &cobra.Command{
		Use: "restore VM SNAPSHOT", Short: "Let a VM go on as a snapshot; id, name and network stay",
		Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeVMThenSnapshot,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			o.Mode = restore.Mode(mode)
			if !other {
				if err := a.ofItsOwn(c.Context(), r, args[0], args[1], dryRun); err != nil {
					return err
				}
			}
			if dryRun {
				p, err := r.hypervisor.PlanExchange(c.Context(), args[0], args[1], o)
				if err != nil {
					return err
				}
				return a.out.JSON(p)
			}
			loading, saving := a.meter("restoring"), a.meter("packing")
			r.restore.OnBytes, o.OnBytes = loading.update, saving.update
			backup, err := r.hypervisor.Exchange(c.Context(), args[0], args[1], o)
			loading.end()
			saving.end()
			if err != nil {
				return err
			}
			if rec, err := r.vms.Get(c.Context(), args[0]); err == nil {
				a.recordVMs(c.Context(), rec)
			}
			if backup != "" {
				a.out.Line("%s", backup)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Backup, "backup", false, "keep the state that it had as a snapshot and print its id")
	f.StringVar(&mode, "restore-mode", mode, "how its RAM is loaded, as in vm create")
	f.BoolVar(&o.AllowIncompatible, "allow-incompatible", false, "try another VMM version or CPU all the same")
	f.StringVar((*string)(&o.Clock), "guest-clock", string(restore.CatchUp), "catch-up: the guest's time of day is right at once; stand-still: its monotonic clock does not leap")
	f.BoolVar(&other, "from-other", false, "also as a snapshot of another VM, whose guest takes the place of this one's")
	f.BoolVar(&dryRun, "dry-run", false, "make every check, touch nothing, print the plan")
	return c
}

// ofItsOwn refuses a snapshot of another VM, and one from elsewhere, which says
// itself of which VM it is, unless somebody at a terminal says that
// it is meant: a slip in the second argument would cost the first one's state.
func (a *app) ofItsOwn(ctx context.Context, r *rooms, vmRef, snapshotRef string, dryRun bool) error {
	rec, err := r.vms.Get(ctx, vmRef)
	if err != nil {
		return err
	}
	id, err := r.store.Resolve(ctx, snapshotRef)
	if err != nil {
		return err
	}
	sn, err := r.store.Get(ctx, id)
	if err != nil {
		return err
	}
	if sn.Spec.VM.ID == rec.ID && !sn.Foreign() || r.descendsFrom(ctx, store.ID(rec.Snapshot), id) {
		return nil
	}
	what := fmt.Sprintf("snapshot %s is of VM %s, not of %s", snapshotRef, sn.Spec.VM.Name, rec.Name)
	if sn.Foreign() {
		what = fmt.Sprintf("snapshot %s %s: that it is of VM %s is what it says itself", snapshotRef, sn.Meta.Origin, sn.Spec.VM.Name)
	}
	what += fmt.Sprintf(": the state that %s has would be lost", rec.Name)
	if !dryRun && a.confirms(what+". Go on?") {
		return nil
	}
	return failure.Hint(failure.New(failure.Conflict, "%s", what), "--from-other if that is meant; --backup keeps the state as a snapshot")
}

// descendsFrom: id is what a VM was made of, or an ancestor of that. Of which one a
// snapshot from elsewhere is the child is the word of whoever made it.
func (r *rooms) descendsFrom(ctx context.Context, madeOf, id store.ID) bool {
	seen := map[store.ID]bool{}
	for at := madeOf; at != "" && !seen[at]; {
		if at == id {
			return true
		}
		seen[at] = true
		sn, err := r.store.Get(ctx, at)
		if err != nil || sn.Foreign() {
			return false // where the line is broken nobody knows
		}
		at = sn.Spec.Parent
	}
	return false
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

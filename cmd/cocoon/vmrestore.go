package main

import (
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/hypervisor"
	"github.com/cocoonv2/cocoon/restore"
)

func newVMRestore(a *app) *cobra.Command {
	var o hypervisor.ExchangeOptions
	var dryRun bool
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
	f.BoolVar(&dryRun, "dry-run", false, "make every check, touch nothing, print the plan")
	return c
}

// completeVMThenSnapshot completes the first argument with VMs, the second with
// snapshots.
func (a *app) completeVMThenSnapshot(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeVMs(c, args, prefix)
	}
	return a.completeSnapshots(c, args, prefix)
}

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

func newSnapshotCreate(a *app) *cobra.Command {
	var req capture.Request
	var labels []string
	var expires string
	var stop, stats bool
	var keep int
	c := &cobra.Command{
		Use: "create VM [NAME]", Aliases: []string{"save"}, Short: "Save a running VM: RAM, devices and disks",
		Args: needArgs(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			req.VM = args[0]
			if len(args) == 2 {
				req.Name = args[1]
			}
			if req.Labels, err = parseLabels("--label", labels); err != nil {
				return err
			}
			if expires != "" {
				d, err := config.ParseDuration("--expires", expires)
				if err != nil {
					return err
				}
				t := time.Now().Add(d).UTC()
				req.Expires = &t
			}
			if keep < 0 {
				return failure.New(failure.Usage, "--max %d is negative", keep)
			}
			req.OnNote = func(text string) { a.log.Warn(text, "vm", req.VM) }
			if req.DryRun {
				p, err := r.Saver.Preview(ctx, req)
				if err != nil {
					return err
				}
				return a.out.JSON(p)
			}
			sn, err := a.save(ctx, r, req)
			if err != nil {
				return err
			}
			if stats {
				printStats(a, sn)
			}
			a.out.Line("%s", sn.ID)
			if stop {
				if err := a.stop(ctx, r, req.VM, vm.StopOptions{}); err != nil {
					return err
				}
			}
			return r.Trim(ctx, sn, keep)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Description, "description", "", "free text")
	listVar(f, &labels, "label", "`key=value`, repeatable")
	f.StringVar(&expires, "expires", "", "let prune take it after this `duration`")
	f.BoolVar(&req.Protect, "protect", false, "refuse rm without --force")
	f.StringVar(&req.Parent, "parent", "auto", "snapshot whose pages may be reused: auto, none or a ref")
	f.StringVar(&req.Mode, "capture", "auto", "live: save while the guest runs, file: pause it meanwhile, auto: live where possible")
	f.BoolVar(&stop, "stop", false, "stop the VM after the snapshot is published")
	f.BoolVar(&req.Replace, "replace", false, "take the name from the snapshot that has it")
	f.IntVar(&keep, "max", 0, "afterwards keep only the newest `N` of this VM (0: all)")
	f.BoolVar(&req.DryRun, "dry-run", false, "make every check, touch nothing, print what would be done")
	f.BoolVar(&stats, "stats", false, "figures of the capture on stderr")
	return c
}

func (a *app) save(ctx context.Context, r *house.House, req capture.Request) (*store.Snapshot, error) {
	m := a.meter("packing")
	defer m.end()
	req.OnBytes = m.update
	return r.Saver.Save(ctx, req)
}

func printStats(a *app, sn *store.Snapshot) {
	cp := sn.Spec.Capture
	a.errOut.Line("paused %.1f ms of %.1f ms, mode %s; pages: %d new, %d reused, %d zero; stored %s",
		cp.PauseMs, cp.TotalMs, cp.Mode, cp.PagesNew, cp.PagesReused, cp.PagesZero, size(sn.StoredBytes))
}

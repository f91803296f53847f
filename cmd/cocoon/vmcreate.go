package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
)

type createFlags struct {
	spec                        vm.CreateSpec
	hardware                    hardwareFlags
	disks, networks, labels     []string
	from, mode                  string
	count                       int
	cold, paused, allow, dryRun bool
	clock                       restore.GuestClock
}

func newVMCreate(a *app) *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a VM from files or an image, or rebuild one from a snapshot",
		Args: needArgs(oneName),
		RunE: func(c *cobra.Command, args []string) error {
			open := a.openNew
			if f.from != "" && !isRemote(f.from) {
				open = a.open
			}
			r, err := open(c.Context())
			if err != nil {
				return err
			}
			if f.from != "" {
				return a.createFromSnapshot(c, r, args[0], &f)
			}
			return a.createFresh(c.Context(), r, args[0], &f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.spec.Kernel, "kernel", "", "kernel `file`")
	fl.StringVar(&f.spec.Firmware, "firmware", "", "firmware `file`")
	fl.StringVar(&f.spec.Initramfs, "initramfs", "", "initramfs `file`")
	fl.StringVar(&f.spec.Image, "image", "", "imported image `ref`")
	fl.StringVar(&f.spec.Cmdline, "cmdline", "", "kernel command line; {ip} {prefix} {netmask} {gateway} {mac} {hostname} are filled in at each boot")
	f.hardware.add(fl)
	listVar(fl, &f.disks, "disk", "`PATH[,readonly][,size=S]`, repeatable")
	listVar(fl, &f.networks, "network", "`none`, tap=NAME or CNI-NAME[,ip=A][,mac=M][,queues=N], repeatable; with --from-snapshot: keep, fresh, keep=CNI-NAME, fresh=CNI-NAME, none or tap=NAME")
	listVar(fl, &f.labels, "label", "`key=value`, repeatable")
	listVar(fl, &f.spec.ExtraArgs, "ch-arg", "additional argument for the VMM, repeatable")
	fl.BoolVar(&f.spec.Start, "start", false, "boot it at once")
	fl.StringVar(&f.from, "from-snapshot", "", "rebuild from snapshot `ref`, which may be REGISTRY/NAME:TAG; runs at once")
	fl.IntVar(&f.count, "count", 0, "make NAME-1 … NAME-`N`, all or none")
	fl.StringVar(&f.mode, "restore-mode", "auto", "auto, map, stream or copy")
	fl.BoolVar(&f.cold, "cold", false, "boot from the snapshot's disks, without its RAM")
	fl.BoolVar(&f.paused, "paused", false, "load the RAM but do not run")
	fl.BoolVar(&f.allow, "allow-incompatible", false, "try another VMM version or CPU anyway")
	fl.StringVar((*string)(&f.clock), "guest-clock", string(restore.CatchUp), "catch-up: the guest's time of day is right at once; stand-still: its monotonic clock does not jump")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the restore plan and stop")
	return c
}

func (a *app) createFresh(ctx context.Context, r *house.House, name string, f *createFlags) error {
	var err error
	s := f.spec
	s.Name = name
	if f.count != 0 || f.cold || f.paused || f.allow || f.dryRun || f.clock != restore.CatchUp {
		return failure.New(failure.Usage, "--count, --cold, --paused, --allow-incompatible, --guest-clock and --dry-run go with --from-snapshot")
	}
	if err := f.hardware.fill(&s); err != nil {
		return err
	}
	if s.Labels, err = parseLabels("--label", f.labels); err != nil {
		return err
	}
	if s.Disks, err = house.ParseDisks(f.disks); err != nil {
		return err
	}
	if s.Networks, err = house.ParseNetworks(f.networks); err != nil {
		return err
	}
	rec, err := r.Create(ctx, s)
	if err != nil {
		return err
	}
	a.out.Line("%s", rec.ID)
	return nil
}

func (a *app) createFromSnapshot(c *cobra.Command, r *house.House, name string, f *createFlags) error {
	for _, own := range []string{"kernel", "firmware", "initramfs", "image", "cmdline", "cpus", "memory", "vsock", "console", "balloon", "disk", "ch-arg"} {
		if c.Flags().Changed(own) {
			return failure.New(failure.Usage, "--%s comes from the snapshot and cannot be given with --from-snapshot", own)
		}
	}
	if given := c.Flags().Changed("count"); given && f.count < 1 || f.count > 1000 {
		return failure.New(failure.Usage, "--count %d: 1 to 1000", f.count)
	}
	wishes, err := house.ParseWishes(f.networks)
	if err != nil {
		return err
	}
	from, err := a.localSnapshot(c.Context(), f.from)
	if err != nil {
		return err
	}
	names := []string{name}
	if f.count > 0 {
		names = nil
		for i := range f.count {
			names = append(names, fmt.Sprintf("%s-%d", name, i+1))
		}
	}
	m := a.meter("restoring")
	plans, err := a.planAll(c.Context(), r, names, restore.Request{
		Snapshot: from, Mode: restore.Mode(f.mode), Cold: f.cold, Paused: f.paused,
		AllowIncompatible: f.allow, Clock: f.clock, Networks: wishes, Clones: len(names), OnBytes: m.update,
	})
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.out.JSON(plans)
	}
	return a.applyAll(c.Context(), r, m, plans)
}

func (a *app) planAll(ctx context.Context, r *house.House, names []string, req restore.Request) ([]*restore.Plan, error) {
	plans, err := r.Restorer.NewPlans(ctx, req, names)
	if err != nil {
		return nil, err
	}
	for _, w := range plans[0].Warnings {
		a.errOut.Line("cocoon: warning: %s", w)
	}
	for _, n := range plans[0].Networks {
		a.errOut.Line("cocoon: %s", n)
	}
	return plans, nil
}

// applyAll makes every VM or none, and prints the ids in the order of names.
func (a *app) applyAll(ctx context.Context, r *house.House, m *meter, plans []*restore.Plan) error {
	recs, err := r.Rebuild(ctx, plans)
	m.end()
	if err != nil {
		return err
	}
	for _, rec := range recs {
		a.out.Line("%s", rec.ID)
	}
	return nil
}

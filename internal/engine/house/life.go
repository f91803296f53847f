package house

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// DiskPath is where the file of a disk lies.
func (h *House) DiskPath(rec *vm.Record, d vm.Disk) string {
	if d.Image != "" {
		return h.Images.Path(d.Image)
	}
	return filepath.Join(h.VMs.Dir(rec.ID), d.File)
}

// Create makes a VM from files or an image.
func (h *House) Create(ctx context.Context, s vm.CreateSpec) (*vm.Record, error) {
	return h.VMs.Create(ctx, s)
}

// Rebuild makes the VMs of plans, all or none. If further clones could be mapped,
// their RAM file is made ahead.
func (h *House) Rebuild(ctx context.Context, plans []*restore.Plan) ([]*vm.Record, error) {
	recs, err := h.Restorer.ApplyAll(ctx, plans)
	if err != nil {
		return nil, err
	}
	if plans[0].Ahead {
		h.materialiseAhead(ctx, string(plans[0].SnapshotID))
	}
	return recs, nil
}

// Suspend saves a VM and ends its VMM; Start resumes it.
func (h *House) Suspend(ctx context.Context, ref string, onBytes func(done, total int64)) error {
	rec, err := h.VMs.Get(ctx, ref)
	if err != nil {
		return err
	}
	if err := h.canWake(ctx, rec); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // it may be able to all the same
		}
		return failure.Undone(err, nil, "VM "+rec.Name+" goes on as it was")
	}
	_, err = h.Saver.Suspend(ctx, rec.ID, capture.Request{
		Description: "RAM of the suspended VM " + rec.Name,
		SleepOf:     sleep.LabelOf(rec.ID, rec.Woken),
		OnBytes:     onBytes,
	})
	return err
}

// canWake refuses a suspension that could not be ended: the VMM that is installed
// now may differ from the one that runs the VM.
func (h *House) canWake(ctx context.Context, rec *vm.Record) error {
	if rec.Process == nil {
		return nil // the suspension reports what is wrong
	}
	ping, err := h.VMs.Client(rec).Ping(ctx)
	if err != nil {
		return fmt.Errorf("ask VM %s: %w", rec.Name, err)
	}
	host, err := h.Restorer.Host(ctx)
	if err != nil {
		return fmt.Errorf("VM %s could not be woken: %w", rec.Name, err)
	}
	if host.VMM.Takes(ping.Version) != chsnap.NoWay {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "VM %s runs under Cloud Hypervisor %s and could not be woken: this host has %s now", rec.Name, ping.Is(), host.VMM),
		"set hypervisor to the binary that it runs under, or stop it and start it")
}

// StartOptions of Start.
type StartOptions struct {
	Cold              bool // boot a suspended VM from its disks and discard its RAM
	Mode              restore.Mode
	AllowIncompatible bool
	Clock             restore.GuestClock
	Boot              vm.BootPaths // what a VM that boots from its disks boots with from now on
	// Networks are the new networks of its interfaces; empty: unchanged.
	Networks  []restore.Wish
	OnNetwork func(restore.NetworkPlan) // receives what was chosen
	OnBytes   func(done, total int64)   // progress of the loading; may be nil
}

// Start wakes a suspended VM, and boots any other from its disks.
func (h *House) Start(ctx context.Context, ref string, o StartOptions) error {
	rec, err := h.VMs.Get(ctx, ref)
	if err != nil {
		return err
	}
	leave := func(ctx context.Context, rec *vm.Record) error {
		return h.Restorer.Leave(ctx, rec, o.Networks, o.OnNetwork)
	}
	if rec.Sleep == nil {
		_, err := h.VMs.Start(ctx, rec.ID, vm.StartOptions{Boot: o.Boot, Rewire: leave})
		return err
	}
	if !o.Cold && o.Boot.Any() {
		return failure.Hint(failure.New(failure.Conflict, "VM %s is suspended: it resumes rather than boots", rec.Name), "leave out "+hint.Kernel.Of()+", "+hint.Firmware.Of()+" and "+hint.Initramfs.Of()+", or say "+hint.Cold.Of()+" to discard its RAM")
	}
	if !o.Cold {
		_, err := h.Restorer.Wake(ctx, rec.ID, restore.Request{
			Mode: o.Mode, AllowIncompatible: o.AllowIncompatible, Clock: o.Clock, Networks: o.Networks, OnNetwork: o.OnNetwork, OnBytes: o.OnBytes,
		})
		return err
	}
	if err := h.canLeave(rec, o.Networks); err != nil {
		return err
	}
	given, err := h.VMs.WakeCold(ctx, rec.ID, o.Boot)
	if err != nil {
		return err
	}
	_, err = h.VMs.Start(ctx, rec.ID, vm.StartOptions{Rewire: leave})
	return errors.Join(err, h.drop(ctx, given))
}

// canLeave refuses impossible networks before the RAM is discarded.
func (h *House) canLeave(rec *vm.Record, wishes []restore.Wish) error {
	if len(wishes) == 0 {
		return nil
	}
	awake := *rec
	awake.Sleep = nil
	_, _, err := h.Restorer.Rewire(&awake, wishes)
	return err
}

// Remove ends and removes a VM, and the snapshot it is suspended on if that has
// no other use.
func (h *House) Remove(ctx context.Context, ref string, o vm.RemoveOptions) (*vm.Record, error) {
	rec, err := h.VMs.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	gone, err := h.VMs.Remove(ctx, rec.ID, o)
	if err != nil {
		return nil, err
	}
	return gone, h.drop(ctx, gone)
}

func (h *House) drop(ctx context.Context, rec *vm.Record) error {
	if rec.Sleep == nil {
		return nil
	}
	return sleep.Drop(ctx, h.Store, rec.Sleep.Snapshot)
}

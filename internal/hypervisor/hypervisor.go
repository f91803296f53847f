// Package hypervisor joins the two halves of the house, capture and restore,
// for what takes both: it is what a caller talks to that thinks of VMs and
// snapshots and of nothing below them.
//
// [Hypervisor] implements [vm.Hypervisor], the two calls that any caller needs.
// Beside them it has the verbs in which a VM keeps its identity: to suspend it
// and to let it go on, to start it whatever it is, to exchange its state for
// that of a snapshot, to remove it with all that is only there for it.
//
// Invariant: a VM that is to become another one is given up only when what
// takes its place is complete, or when its own state is on disk.
package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/capture"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
)

// Hypervisor does with whole VMs what takes capture and restore.
type Hypervisor struct {
	Store    *store.Store
	VMs      *vm.Manager
	Saver    *capture.Saver
	Restorer *restore.Engine
	// Guard starts a process that calls vm.Manager.RescueAfter for a VM if this
	// one dies, or stands still and is ended for it, before it calls release; nil:
	// no guard.
	Guard func(ctx context.Context, id string) (release func(), err error)
}

var _ vm.Hypervisor = (*Hypervisor)(nil)

// Snapshot saves the VM that ref names, which goes on, under a name that may be
// empty.
func (h *Hypervisor) Snapshot(ctx context.Context, ref, name string) error {
	_, err := h.Saver.Save(ctx, capture.Request{VM: ref, Name: name})
	return err
}

// Restore makes a VM called name of the snapshot that ref names. It runs.
func (h *Hypervisor) Restore(ctx context.Context, ref, name string) (*vm.Record, error) {
	p, err := h.Restorer.NewPlan(ctx, restore.Request{Snapshot: ref, Name: name})
	if err != nil {
		return nil, err
	}
	return h.Restorer.Apply(ctx, p)
}

// Suspend saves a VM and ends its VMM; Start lets it go on.
func (h *Hypervisor) Suspend(ctx context.Context, ref string, onBytes func(done, total int64)) error {
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
		SleepOf:     store.SleepLabel(rec.ID, rec.Woken),
		OnBytes:     onBytes,
	})
	return err
}

// canWake refuses a suspension that nobody could end: the VMM that is installed
// now may be another than the one which runs the VM.
func (h *Hypervisor) canWake(ctx context.Context, rec *vm.Record) error {
	if rec.Process == nil {
		return nil // the suspension says what is wrong
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
	Cold              bool // boot a suspended VM from its disks and give up its RAM
	Mode              restore.Mode
	AllowIncompatible bool
	Clock             restore.GuestClock
	Boot              vm.BootPaths // what a VM that boots from its disks boots with from now on
	// Networks are where its interfaces are to be from now on; none: where they were.
	Networks  []restore.Wish
	OnNetwork func(restore.NetworkPlan) // is told what was chosen
}

// Start wakes a suspended VM, and boots any other from its disks.
func (h *Hypervisor) Start(ctx context.Context, ref string, o StartOptions) error {
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
		return failure.Hint(failure.New(failure.Conflict, "VM %s is suspended: it goes on and does not boot", rec.Name), "leave out --kernel, --firmware and --initramfs, or say --cold to give up its RAM")
	}
	if !o.Cold {
		_, err := h.Restorer.Wake(ctx, rec.ID, restore.Request{
			Mode: o.Mode, AllowIncompatible: o.AllowIncompatible, Clock: o.Clock, Networks: o.Networks, OnNetwork: o.OnNetwork,
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

// canLeave refuses networks that cannot be before the RAM is given up.
func (h *Hypervisor) canLeave(rec *vm.Record, wishes []restore.Wish) error {
	if len(wishes) == 0 {
		return nil
	}
	awake := *rec
	awake.Sleep = nil
	_, _, err := h.Restorer.Rewire(&awake, wishes)
	return err
}

// Remove ends and removes a VM, and the snapshot it sleeps on if that is there
// for nothing else.
func (h *Hypervisor) Remove(ctx context.Context, ref string, o vm.RemoveOptions) (*vm.Record, error) {
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

func (h *Hypervisor) drop(ctx context.Context, rec *vm.Record) error {
	if rec.Sleep == nil {
		return nil
	}
	return h.Store.DropSuspended(ctx, rec.Sleep.Snapshot)
}

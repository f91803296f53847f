package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// Suspend saves a VM and ends its VMM, without losing anything the guest did in
// between: it is paused from before the RAM is read until the VM is suspended on
// the published snapshot. Before that moment every failure, including the death
// of this process, resumes the guest; after it, none does.
func (s *Saver) Suspend(ctx context.Context, ref string, req Request) (*store.Snapshot, error) {
	rec, unlock, err := s.VMs.Lock(ctx, ref, "vm suspend")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.SuspendLocked(ctx, rec, req)
}

// SuspendLocked is Suspend for a caller that holds the VM's lock; rec then says
// suspended.
func (s *Saver) SuspendLocked(ctx context.Context, rec *vm.Record, req Request) (*store.Snapshot, error) {
	req.VM, req.sleep = rec.ID, true
	lease, err := s.Store.Lease(ctx, "vm suspend "+rec.Name)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	refusal := begin(s, req, rec, lease)
	if err := refusal.check(ctx); err != nil {
		return nil, failure.Undone(err, nil, goesOn(rec))
	}
	sn, err := s.fallAsleep(ctx, rec, lease, req)
	if err != nil {
		return nil, fmt.Errorf("suspend VM %s: %w", rec.Name, err)
	}
	return sn, nil
}

// fallAsleep pauses, saves, suspends the VM and ends its VMM, or resumes the
// guest.
func (s *Saver) fallAsleep(ctx context.Context, rec *vm.Record, lease *store.Lease, req Request) (sn *store.Snapshot, err error) {
	goOn := func() error { return nil }
	if rec.State == vm.Running {
		if goOn, err = s.halt(ctx, rec); err != nil {
			return nil, err
		}
	}
	sn, err = s.save(ctx, rec, lease, req)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = s.VMs.Suspend(rec, sn.ID, req.Aside)
	}
	if err != nil {
		undoing := goOn()
		if sn != nil {
			undoing = errors.Join(undoing, s.retract(ctx, lease, sn.ID))
		}
		return nil, failure.Undone(err, undoing, goesOn(rec))
	}
	return sn, errors.Join(s.VMs.EndSuspended(context.WithoutCancel(ctx), rec), goOn())
}

// goesOn describes the state of a VM whose suspension failed.
func goesOn(rec *vm.Record) string { return "VM " + rec.Name + " goes on as it was" }

// halt pauses a running guest. The returned function, to be called once, resumes
// it unless it is suspended by then; a guard does so if this process dies.
func (s *Saver) halt(ctx context.Context, rec *vm.Record) (goOn func() error, err error) {
	client := s.VMs.Client(rec)
	settle, err := s.VMs.OweResume(ctx, rec)
	if err != nil {
		return nil, err
	}
	guard, err := chsnap.StartGuard(chsnap.GuardOptions{
		Command: s.Guard, Client: client, Unless: s.VMs.SleepPath(rec.ID), Owed: s.VMs.OwedPath(rec.ID), RAM: uint64(rec.MemoryBytes),
	})
	if err != nil {
		return nil, settle(ctx, err)
	}
	if err := guard.Arm(ctx); err != nil {
		guard.Release()
		return nil, settle(ctx, err)
	}
	rec.State = vm.Paused
	goOn = func() error {
		ctx := context.WithoutCancel(ctx)
		var err error
		if rec.State == vm.Paused {
			rec.State = vm.Running
			err = client.EnsureRunning(ctx, s.VMs.Patience().Moving(uint64(rec.MemoryBytes)))
		}
		guard.Release()
		return settle(ctx, err)
	}
	if err := client.Pause(ctx); err != nil {
		return nil, errors.Join(err, goOn()) // the VMM may still carry it out
	}
	durable.Step("vm.suspend.paused")
	return goOn, nil
}

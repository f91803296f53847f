package restore

import (
	"context"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Wake resumes a suspended VM where it was, on its own disks:
//
//	1 network   its interfaces, with their old MACs and addresses, or where
//	            r.Networks wants them
//	2 memory    as in a restore
//	3 launch, 4 load
//	5 awake     suspend.json goes: from here on the VM is no longer suspended
//	6 resume
//
// Until step 5 any failure, including the death of this process, leaves the VM
// suspended. The disks are untouched until step 6. r says how; its Snapshot and
// Name are filled in.
func (e *Engine) Wake(ctx context.Context, ref string, r Request) (*VM, error) {
	if err := e.complete(); err != nil {
		return nil, err
	}
	rec, unlock, err := e.VMs.Lock(ctx, ref, "vm start")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Sleep == nil {
		return nil, failure.New(failure.Conflict, "VM %s is %s, not suspended", rec.Name, rec.State)
	}
	return rec, e.WakeLocked(ctx, rec, r)
}

// WakeLocked is Wake for a caller that holds the VM's lock.
func (e *Engine) WakeLocked(ctx context.Context, rec *VM, r Request) error {
	if err := e.VMs.MayRun(ctx, rec.ID); err != nil {
		return err
	}
	snapshot := rec.Sleep.Snapshot
	r.Snapshot, r.Name, r.ownDisks = string(snapshot), "", true
	err := e.wake(ctx, rec, r)
	if keyring.IsMissing(err) { // the remedy is not to discard the RAM
		return fmt.Errorf("wake VM %s: %w", rec.Name, err)
	}
	if err != nil {
		remedy := "it is still suspended: " + hint.Wake.Of(rec.Name) + " resumes it; with " + hint.Cold.Of() + " it boots from its disks and discards its RAM"
		if own := failure.HintOf(err); own != "" {
			remedy = own + "; " + remedy
		}
		return failure.Hint(fmt.Errorf("wake VM %s: %w", rec.Name, err), remedy)
	}
	// A failure to remove the snapshot, which is no longer needed, is no reason
	// to fail: gc finds it too.
	_ = sleep.Drop(context.WithoutCancel(ctx), e.Store, snapshot)
	if err := e.VMs.AnnounceSaved(ctx, rec); err != nil {
		return fmt.Errorf("VM %s runs, but its addresses were not announced: %w", rec.Name, err)
	}
	return nil
}

func (e *Engine) wake(ctx context.Context, rec *vm.Record, r Request) error {
	p, err := e.NewPlan(ctx, r)
	if err != nil {
		return err
	}
	lease, err := e.Store.Lease(ctx, "vm start "+rec.Name)
	if err != nil {
		return err
	}
	defer lease.Release()
	if p.subject, err = e.holdPlanned(ctx, lease, p.subject); err != nil {
		return err
	}
	if err := e.makeRoom(ctx, lease, p); err != nil {
		return err
	}
	if err := e.VMs.ReleaseMemory(rec.ID); err != nil { // of a wake that died
		return err
	}
	settle, err := e.VMs.OweResume(ctx, rec)
	if err != nil {
		return err
	}
	w := &run{Engine: e, plan: p, lease: lease, rec: rec, started: time.Now()}
	leave := func(ctx context.Context) error { return e.Leave(ctx, rec, r.Networks, r.OnNetwork) }
	err = w.doOrUndo(ctx, "wake.", w.wakeSteps(leave))
	return settle(ctx, err)
}

func (r *run) wakeSteps(leave func(context.Context) error) []step {
	network := func(ctx context.Context) error {
		if err := leave(ctx); err != nil {
			return err
		}
		return r.reattach(ctx)
	}
	steps := append([]step{{"network", network, nothing}}, r.loadSteps()...)
	return append(steps, step{"awake", r.awake, r.takeBack(*r.rec)}, step{"resume", r.goOn, nothing})
}

// attach attaches the interfaces of the VM's record, with the MACs and addresses
// in it. If a wake fails they stay as those of a stopped VM do.
func (r *run) attach(ctx context.Context) error { return r.VMs.AttachSaved(ctx, r.rec) }

// reattach is attach for a VM that may be started on other networks.
func (r *run) reattach(ctx context.Context) error { return vm.CannotAttach(r.rec, r.attach(ctx)) }

func (r *run) awake(context.Context) error {
	r.rec.Restore = r.restoreInfo()
	return r.VMs.Wake(r.rec)
}

// takeBack returns the VM to its former state, unless the guest may have written
// to its disks since: then its RAM is useless.
func (r *run) takeBack(was vm.Record) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := r.kill(ctx); err != nil {
			return err
		}
		if r.mayHaveRun {
			return r.VMs.Failed(r.rec, "its VMM failed when the guest was resumed")
		}
		return r.VMs.TakeBack(&was)
	}
}

// goOn resumes the guest. If that fails the VMM is asked whether the guest is
// paused; a VMM that does not answer may have resumed it.
func (r *run) goOn(ctx context.Context) error {
	client := r.VMs.Client(r.rec)
	err := client.Resume(ctx)
	if err == nil {
		return nil
	}
	info, ierr := client.Info(context.WithoutCancel(ctx))
	if ierr == nil && info.State == "Running" {
		return nil
	}
	r.mayHaveRun = ierr != nil || info.State != "Paused"
	return err
}

package house

import (
	"context"
	"errors"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// ExchangeOptions of Exchange.
type ExchangeOptions struct {
	Backup            bool // keep the VM's state as a snapshot
	Mode              restore.Mode
	AllowIncompatible bool
	Clock             restore.GuestClock
	// OnSaved and OnLoaded receive the progress of the two halves; may be nil.
	OnSaved, OnLoaded func(done, total int64)
}

// Exchange lets a VM continue as a snapshot: RAM, devices and disks change, its
// id, name and network stay. First the replacement is built in full beside the
// running VM; then the VM is suspended; then the replacement takes over. If that
// fails the VM is woken and continues in its former state.
//
// The result is the snapshot of its former state, "" unless that is kept.
func (h *House) Exchange(ctx context.Context, ref, snapshot string, o ExchangeOptions) (backup store.ID, err error) {
	rec, unlock, err := h.VMs.Lock(ctx, ref, "vm restore")
	if err != nil {
		return "", err
	}
	defer unlock()
	if o.Backup && rec.Process == nil && rec.Sleep == nil {
		return "", failure.Hint(failure.New(failure.Conflict, "VM %s is %s: it has no RAM to back up", rec.Name, rec.State), "start it, or do without "+hint.Backup.Of())
	}
	trial, err := h.Restorer.Try(ctx, rec, o.request(snapshot))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, trial.Close(ctx)) }()
	release, err := h.startRescue(ctx, rec.ID)
	if err != nil {
		return "", err
	}
	defer release()
	if rec.Process != nil {
		if err := h.putAside(ctx, rec, o); err != nil {
			return "", err
		}
	}
	former := formerState(rec)
	if err := trial.Become(ctx); err != nil {
		return "", h.goOn(ctx, rec, err)
	}
	if former == "" {
		return "", nil
	}
	if o.Backup {
		return former, h.keep(ctx, former)
	}
	return "", sleep.Drop(ctx, h.Store, former)
}

func (o ExchangeOptions) request(snapshot string) restore.Request {
	return restore.Request{Snapshot: snapshot, Mode: o.Mode, AllowIncompatible: o.AllowIncompatible, Clock: o.Clock, OnBytes: o.OnLoaded}
}

// PlanExchange makes every foreseeable refusal of Exchange and touches nothing.
func (h *House) PlanExchange(ctx context.Context, ref, snapshot string, o ExchangeOptions) (*restore.Plan, error) {
	rec, err := h.VMs.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return h.Restorer.PlanExchange(ctx, rec, o.request(snapshot))
}

// formerState is the snapshot that a VM is suspended on.
func formerState(rec *vm.Record) store.ID {
	if rec.Sleep == nil {
		return ""
	}
	return rec.Sleep.Snapshot
}

// putAside suspends a running VM. From here on it is either woken or replaced: by
// this process, by its guard if it dies, by the next command if both do.
func (h *House) putAside(ctx context.Context, rec *vm.Record, o ExchangeOptions) error {
	req := capture.Request{Description: "VM " + rec.Name + " before it was restored", OnBytes: o.OnSaved, Aside: true}
	if !o.Backup {
		req.SleepOf = sleep.LabelOf(rec.ID, rec.Woken)
	}
	_, err := h.Saver.SuspendLocked(ctx, rec, req)
	return err
}

// goOn wakes a VM that was put aside, and explains the failure.
func (h *House) goOn(ctx context.Context, rec *vm.Record, cause error) error {
	if rec.Sleep == nil || !rec.Sleep.Aside {
		return cause
	}
	if err := h.Restorer.WakeLocked(context.WithoutCancel(ctx), rec, restore.Request{AllowIncompatible: true}); err != nil {
		return failure.Undone(cause, err, "")
	}
	return failure.Undone(fmt.Errorf("%w; VM %s goes on as it was", cause, rec.Name), nil, "VM "+rec.Name+" goes on as it was")
}

// keep turns the RAM of a suspended VM into an ordinary snapshot.
func (h *House) keep(ctx context.Context, id store.ID) error {
	return h.Store.SetMeta(ctx, id, func(m *store.Meta) error {
		delete(m.Labels, sleep.Label)
		return nil
	})
}

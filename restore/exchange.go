package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
)

// Trial is the VM of a snapshot, built in full beside the one it is to replace:
// its disks are written, and a VMM loaded its RAM and devices. It has a hidden id
// of its own and a journal: if this process dies, gc removes it like any restore
// that died.
type Trial struct {
	*run
	of *vm.Record
}

// Try builds the VM of r.Snapshot as a replacement for rec, whose lock the caller
// holds, without touching rec. Close the result.
func (e *Engine) Try(ctx context.Context, rec *VM, r Request) (*Trial, error) {
	p, err := e.planTrial(ctx, rec, r)
	if err != nil {
		return nil, err
	}
	lease, err := e.Store.Lease(ctx, "vm restore "+rec.Name)
	if err != nil {
		return nil, err
	}
	t := &Trial{run: &run{Engine: e, plan: p, lease: lease, started: time.Now(), unlock: func() {}}, of: rec}
	if p.subject, err = e.holdPlanned(ctx, lease, p.subject); err != nil {
		return nil, errors.Join(err, t.Close(ctx))
	}
	if err := e.makeRoom(ctx, lease, p); err != nil {
		return nil, errors.Join(err, t.Close(ctx))
	}
	steps := []step{{"reserve", t.reserve, t.unreserve}, {"network", t.attach, nothing}, {"disks", t.disks, nothing}}
	if err := t.doOrUndo(ctx, "exchange.", append(steps, t.loadSteps()...)); err != nil {
		return nil, errors.Join(fmt.Errorf("restore snapshot %s in place of VM %s: %w", p.SnapshotID, rec.Name, err), t.Close(ctx))
	}
	// It works. The VMM is no longer needed, since its TAPs are not the right
	// ones.
	if err := errors.Join(t.kill(ctx), t.VMs.ReleaseMemory(t.rec.ID)); err != nil {
		return nil, errors.Join(err, t.Close(ctx))
	}
	return t, nil
}

// PlanExchange makes every refusal of Try and changes nothing. The plan is that
// of the VM, not of its temporary replacement.
func (e *Engine) PlanExchange(ctx context.Context, rec *VM, r Request) (*Plan, error) {
	p, err := e.planTrial(ctx, rec, r)
	if err != nil {
		return nil, err
	}
	p.Name, p.Paused, p.Networks = rec.Name, false, nil
	for _, n := range rec.Networks {
		inside, on := n.Inside(), n.Attachment.Network
		if n.Attachment.Network == network.Tap {
			on = ""
		}
		p.Networks = append(p.Networks, NetworkPlan{ID: n.ID, How: Keep, Network: on, Tap: n.Tap, MAC: inside.MAC, IPs: inside.IPs, Why: "the VM has it"})
	}
	return p, nil
}

// planTrial is the plan of the VM built beside rec.
func (e *Engine) planTrial(ctx context.Context, rec *vm.Record, r Request) (*Plan, error) {
	r.Name, r.Paused = "exchange-"+rec.ID[:12], true
	r.Networks = []Wish{{How: None}} // the VM has the real ones
	p, err := e.NewPlan(ctx, r)
	if err != nil {
		return nil, err
	}
	return p, sameInterfaces(p, rec)
}

// sameInterfaces: the VM keeps its identity, so the guest of the snapshot must
// have the same one.
func sameInterfaces(p *Plan, rec *vm.Record) error {
	var have, want []string
	for _, n := range p.source.Interfaces() {
		have = append(have, n.ID+" "+n.Inside().MAC)
	}
	for _, n := range rec.Networks {
		want = append(want, n.ID+" "+n.Inside().MAC)
	}
	if slices.Equal(have, want) {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "snapshot %s has the interfaces %q, VM %s has %q", p.SnapshotID, have, rec.Name, want),
		"make another VM of it: "+hint.Clone.Of(string(p.SnapshotID)))
}

// Close removes what is left of the trial.
func (t *Trial) Close(ctx context.Context) error {
	var err error
	if t.rec != nil {
		err = t.unreserve(context.WithoutCancel(ctx))
	}
	t.unlock()
	return errors.Join(err, t.lease.Release())
}

// Become lets the VM, which has no process, continue as its trial:
//
//	1 adopt     the trial's disks move into the VM's folder, beside its own
//	2 network, memory, launch, load: as in a wake
//	3 commit    the record changes; of a suspended VM suspend.json goes
//	4 resume
//
// Until step 3 every failure leaves the VM as it was, its own disks untouched.
func (t *Trial) Become(ctx context.Context) error {
	was := *t.of
	rec := t.future()
	settle, err := t.VMs.OweResume(ctx, rec)
	if err != nil {
		return err
	}
	if err := t.VMs.ReleaseMemory(rec.ID); err != nil {
		return err
	}
	b := &run{Engine: t.Engine, plan: t.plan, lease: t.lease, rec: rec, started: t.started}
	steps := []step{{"adopt", t.adopt(rec), b.disown}, {"network", b.reattach, nothing}}
	steps = append(steps, b.loadSteps()...)
	steps = append(steps, step{"commit", b.awake, b.takeBack(was)}, step{"resume", b.goOn, nothing})
	err = settle(ctx, b.doOrUndo(ctx, "become.", steps))
	if err != nil {
		return fmt.Errorf("restore snapshot %s in place of VM %s: %w", t.plan.SnapshotID, rec.Name, err)
	}
	*t.of = *rec
	return errors.Join(t.VMs.DropStrayDisks(rec), t.VMs.AnnounceSaved(ctx, rec))
}

// future is the record of the VM after the exchange: everything from the snapshot
// but its identity.
func (t *Trial) future() *vm.Record {
	rec, of := *t.rec, t.of
	rec.ID, rec.Name, rec.Created, rec.Labels, rec.Networks, rec.Woken = of.ID, of.Name, of.Created, of.Labels, of.Networks, of.Woken
	rec.Process, rec.Disks = nil, slices.Clone(rec.Disks)
	for i, d := range rec.Disks {
		if d.File != "" {
			rec.Disks[i].File = vm.DiskFileOf(d.Index, t.rec.ID) // not one that the VM has
		}
	}
	return &rec
}

func (t *Trial) adopt(rec *vm.Record) func(context.Context) error {
	return func(context.Context) error {
		for i, d := range rec.Disks {
			if d.File == "" {
				continue
			}
			from := filepath.Join(t.VMs.Dir(t.rec.ID), t.rec.Disks[i].File)
			if err := durable.Publish(from, filepath.Join(t.VMs.Dir(rec.ID), d.File)); err != nil {
				return err
			}
		}
		return nil
	}
}

// disown removes the adopted disks, unless a guest may have run on them.
func (r *run) disown(context.Context) error {
	if r.mayHaveRun {
		return nil
	}
	for _, d := range r.rec.Disks {
		if d.File == "" {
			continue
		}
		if err := os.Remove(filepath.Join(r.VMs.Dir(r.rec.ID), d.File)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

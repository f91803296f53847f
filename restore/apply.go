package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// step is one numbered action; undo takes back what do made, even half.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// run is one Apply under way.
type run struct {
	*Engine
	plan    *Plan
	lease   *store.Lease
	rec     *vm.Record
	unlock  func()
	journal string
	staging string // RAM folder of copy mode; "" otherwise
	started time.Time

	mayHaveRun bool // the guest of a wake, though its resume failed
}

// Apply makes the VM of the plan. On error nothing of it is left.
func (e *Engine) Apply(ctx context.Context, p *Plan) (*vm.Record, error) {
	lease, err := e.Store.Lease(ctx, "restore "+string(p.SnapshotID))
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	if err := e.hold(ctx, lease, p); err != nil {
		return nil, err
	}
	r := &run{Engine: e, plan: p, lease: lease, started: time.Now(), unlock: func() {}}
	defer func() { r.unlock() }()
	if err := runSteps(ctx, "restore.", r.list()); err != nil {
		return nil, fmt.Errorf("restore snapshot %s as VM %s: %w", p.SnapshotID, p.Name, err)
	}
	return r.rec, nil
}

// hold leases all that the plan's snapshot names: from then on gc leaves it
// alone. Its pages may have been moved to other packs since the plan was made;
// the plan goes on with the snapshot as it is now.
func (e *Engine) hold(ctx context.Context, lease *store.Lease, p *Plan) error {
	sn, err := lease.HoldEdges(ctx, p.SnapshotID)
	if err != nil {
		return fmt.Errorf("snapshot %s went away: %w", p.SnapshotID, err)
	}
	if p.snapshot != nil && p.snapshot.ManifestDigest == sn.ManifestDigest {
		return nil // what the plan saw is there as long as this manifest is
	}
	if err := e.Store.Unlock(ctx, sn); err != nil {
		return err
	}
	p.snapshot = sn
	return e.checkObjects(ctx, sn)
}

func (r *run) list() []step {
	none := func(context.Context) error { return nil }
	all := []step{
		{"reserve", r.reserve, r.unreserve},
		{"network", r.attach, r.detach},
		{"disks", r.disks, none}, // the VM's folder goes with unreserve
	}
	if r.plan.Mode == Cold {
		return append(all, step{"record", r.record, none})
	}
	all = append(all, r.loadSteps()...)
	if !r.plan.Paused {
		all = append(all, step{"resume", r.resume, none}, step{"announce", r.announce, none})
	}
	return append(all, step{"record", r.record, none})
}

// loadSteps bring the RAM of the plan's snapshot into a new VMM of the record.
func (r *run) loadSteps() []step {
	var steps []step
	load := r.load
	switch r.plan.Mode {
	case Copy:
		steps = append(steps, step{"memory", r.copyMemory, r.dropMemory})
	case Map:
		steps = append(steps, step{"memory", r.mapMemory, r.dropMemory})
	case Stream:
		load = r.stream
	}
	none := func(context.Context) error { return nil }
	return append(steps, step{"launch", r.launch, r.kill}, step{"load", load, none})
}

// runSteps does every step, or takes back those that it did, last first. Each is
// a place for a crash, under its prefixed name.
func runSteps(ctx context.Context, prefix string, steps []step) error {
	for i, s := range steps {
		err := ctx.Err()
		if err == nil {
			err = s.do(ctx)
		}
		if err == nil {
			durable.Step(prefix + s.name)
			continue
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		for j := i; j >= 0; j-- {
			if uerr := steps[j].undo(context.WithoutCancel(ctx)); uerr != nil {
				err = errors.Join(err, fmt.Errorf("undo %s: %w", steps[j].name, uerr))
			}
		}
		return err
	}
	return nil
}

func (r *run) reserve(ctx context.Context) error {
	rec, unlock, err := r.VMs.Reserve(ctx, r.lease, r.plan.Name, "vm create --from-snapshot")
	if err != nil {
		return err
	}
	r.rec, r.unlock = rec, unlock
	fillRecord(rec, r.plan)
	if r.journal, err = writeJournal(r.Store, Journal{VM: rec.ID, Snapshot: string(r.plan.SnapshotID), Started: r.started}); err != nil {
		return err
	}
	return nil
}

func (r *run) unreserve(ctx context.Context) error {
	if r.rec == nil {
		return nil
	}
	err := r.VMs.Discard(ctx, r.rec.ID)
	if r.journal != "" && err == nil {
		err = removeJournal(r.journal)
	}
	return err
}

func (r *run) disks(ctx context.Context) error {
	dir := r.VMs.Dir(r.rec.ID)
	for i, d := range r.plan.snapshot.Spec.Disks {
		if d.Image != "" {
			continue
		}
		if err := r.writeDisk(ctx, i, filepath.Join(dir, r.rec.Disks[i].File)); err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	return durable.SyncDir(dir)
}

func (r *run) writeDisk(ctx context.Context, i int, path string) error {
	im, err := r.Store.OpenDisk(ctx, r.lease, r.plan.snapshot, i)
	if err != nil {
		return err
	}
	defer im.Close()
	return writeImage(ctx, im, path, r.OnBytes)
}

func (r *run) launch(ctx context.Context) error {
	p, err := r.VMs.Launch(ctx, r.rec, nil)
	if err != nil {
		return err
	}
	r.rec.Process = p
	return nil
}

func (r *run) kill(ctx context.Context) error {
	if r.rec == nil {
		return nil
	}
	return r.VMs.Kill(ctx, r.rec.ID)
}

func (r *run) load(ctx context.Context) error {
	err := r.VMs.Client(r.rec).Restore(ctx, chsnap.RestoreConfig{SourceURL: "file://" + r.staging}, uint64(r.plan.MemoryBytes))
	if err != nil {
		return err
	}
	return r.dropStaging(ctx)
}

func (r *run) resume(ctx context.Context) error {
	return r.VMs.Client(r.rec).Resume(ctx)
}

func (r *run) dropMemory(ctx context.Context) error {
	if r.rec == nil {
		return nil
	}
	return errors.Join(r.dropStaging(ctx), r.VMs.ReleaseMemory(r.rec.ID))
}

func (r *run) dropStaging(context.Context) error {
	if r.staging == "" {
		return nil
	}
	return os.RemoveAll(r.staging)
}

// record publishes the VM; the journal goes after it, so that a crash between
// the two finds a VM that exists and undoes nothing.
func (r *run) record(ctx context.Context) error {
	switch {
	case r.plan.Mode == Cold:
		r.rec.State = "stopped"
	case r.plan.Paused:
		r.rec.State = "paused"
	default:
		r.rec.State = "running"
	}
	if r.plan.Mode != Cold {
		r.rec.Restore = r.restoreInfo()
	}
	if err := r.VMs.Publish(ctx, r.rec); err != nil {
		return err
	}
	durable.Step("restore.published")
	return removeJournal(r.journal)
}

func (r *run) restoreInfo() *vm.RestoreInfo {
	return &vm.RestoreInfo{Mode: string(r.plan.Mode), Ms: float64(time.Since(r.started).Microseconds()) / 1000}
}

// Recover undoes what a dead Apply left. A journal whose VM has a record only
// loses the journal.
func (e *Engine) Recover(ctx context.Context, journal string) error {
	j, err := readJournal(journal)
	if err != nil {
		return err
	}
	if _, err := e.VMs.Get(ctx, j.VM); err == nil {
		return removeJournal(journal)
	} else if !errors.Is(err, failure.NotFound) {
		return err
	}
	if err := e.VMs.Discard(ctx, j.VM); err != nil {
		return err
	}
	if err := removeStaging(j.VM); err != nil {
		return err
	}
	return removeJournal(journal)
}

// clonesAtOnce bounds how many VMs of one ApplyAll are made side by side.
const clonesAtOnce = 8

// ApplyAll applies several plans side by side. On error every VM already made
// is removed again: all or none.
func (e *Engine) ApplyAll(ctx context.Context, plans []*Plan) ([]*vm.Record, error) {
	recs := make([]*vm.Record, len(plans))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(clonesAtOnce)
	for i, p := range plans {
		g.Go(func() (err error) {
			recs[i], err = e.Apply(gctx, p)
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		return recs, nil
	}
	for _, rec := range recs {
		if rec != nil {
			err = errors.Join(err, e.VMs.Remove(context.WithoutCancel(ctx), rec.ID, true))
		}
	}
	return nil, err
}

package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
)

// step is one numbered action; undo reverts do, even half-done.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// run is one VM being made, or remade.
type run struct {
	*Engine
	plan    *Plan
	lease   *store.Lease
	rec     *vm.Record
	unlock  func()
	journal string
	staging string // RAM folder of copy mode; "" otherwise
	started time.Time

	begun []step // in order, for undo

	mayHaveRun bool // the guest of a wake, though its resume failed
}

// buildSteps make the whole VM, whose guest does not run yet.
func (r *run) buildSteps() []step {
	steps := []step{
		{"reserve", r.reserve, r.unreserve},
		{"network", r.attach, r.detach},
		{"disks", r.disks, nothing}, // the VM's folder goes with unreserve
	}
	if r.plan.Mode == Cold {
		return steps
	}
	return append(steps, r.loadSteps()...)
}

// startSteps let its guest run.
func (r *run) startSteps() []step {
	if r.plan.Mode == Cold || r.plan.Paused {
		return nil
	}
	return []step{{"resume", r.resume, nothing}, {"announce", r.announce, nothing}}
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
		load = r.loadMapped
	case Stream:
		load = r.stream
	}
	return append(steps, step{"launch", r.launch, r.kill}, step{"load", load, nothing})
}

func nothing(context.Context) error { return nil }

// do does the steps in order until one fails. Each is a place for a crash, under
// its prefixed name.
func (r *run) do(ctx context.Context, prefix string, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.begun = append(r.begun, s)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		durable.Step(prefix + s.name)
	}
	return nil
}

// undo reverts every step that was begun, last first.
func (r *run) undo(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(r.begun) {
		if err := s.undo(context.WithoutCancel(ctx)); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.name, err))
		}
	}
	r.begun = nil
	return errors.Join(errs...)
}

// doOrUndo does every step or leaves nothing of them.
func (r *run) doOrUndo(ctx context.Context, prefix string, steps []step) error {
	err := r.do(ctx, prefix, steps)
	if err != nil {
		err = errors.Join(err, r.undo(ctx))
	}
	return err
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
		err = removeJournals(r.journal)
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
	im, err := contents.Of(r.Store, r.plan.snapshot).Open(ctx, r.plan.maps.Disks[i])
	if err != nil {
		return err
	}
	defer im.Close()
	r.rec.Disks[i].Bytes = im.Bytes()
	return writeImage(ctx, im, path, r.plan.onBytes)
}

func (r *run) launch(ctx context.Context) error {
	p, err := r.VMs.Launch(ctx, r.rec, chsnap.Args{})
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

// describe completes the record of a VM that stands.
func (r *run) describe() {
	switch {
	case r.plan.Mode == Cold:
		r.rec.State = vm.Stopped
		return
	case r.plan.Paused:
		r.rec.State = vm.Paused
	default:
		r.rec.State = vm.Running
	}
	r.rec.Restore = r.restoreInfo()
}

func (r *run) restoreInfo() *vm.RestoreInfo {
	return &vm.RestoreInfo{Mode: string(r.plan.Mode), Ms: float64(time.Since(r.started).Microseconds()) / 1000}
}

// Recover undoes what a dead Apply left. If the VM has a record, only the journal
// is removed.
func (e *Engine) Recover(ctx context.Context, journal string) error {
	if err := e.complete(); err != nil {
		return err
	}
	j, err := readJournal(journal)
	if err != nil {
		return err
	}
	if _, err := e.VMs.Get(ctx, j.VM); err == nil {
		return removeJournals(journal)
	} else if !errors.Is(err, failure.NotFound) {
		return err
	}
	if err := e.VMs.Discard(ctx, j.VM); err != nil {
		return err
	}
	if err := e.removeStaging(ctx, j.VM); err != nil {
		return err
	}
	return removeJournals(journal)
}

package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
)

// documents are the VMM's, patched for the new VM; everything that belongs to no
// VM stays as captured.
func (r *run) documents(ctx context.Context, writable ...string) (*chsnap.Config, *chsnap.State, error) {
	c, s := r.plan.config.Clone(), r.plan.state.Clone()
	if r.plan.dropTSC {
		if err := s.DropTSC(); err != nil {
			return nil, nil, err
		}
	}
	if r.plan.Clock == StandStill {
		if err := s.HoldClock(); err != nil {
			return nil, nil, fmt.Errorf("snapshot %s: %w", r.plan.SnapshotID, err)
		}
	}
	w := r.VMs.Rewriting(ctx, r.rec)
	if w.Confine {
		w.Writable = append(w.Writable, writable...)
	}
	return c, s, c.Rewrite(w)
}

func writeFolder(dir string, c *chsnap.Config, s *chsnap.State) error {
	if err := os.WriteFile(filepath.Join(dir, "config.json"), c.Bytes(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state.json"), s.Bytes(), 0o600)
}

// copyMemory builds the CH snapshot folder: on tmpfs if RAM allows, else in the
// VM's folder.
func (r *run) copyMemory(ctx context.Context) error {
	base := chsnap.PickStaging(uint64(r.plan.MemoryBytes), r.VMs.Dir(r.rec.ID))
	if err := r.makeStaging(ctx, base); err != nil {
		return err
	}
	c, s, err := r.documents(ctx)
	if err != nil {
		return err
	}
	if err := writeFolder(r.staging, c, s); err != nil {
		return err
	}
	return r.writeMemory(ctx, r.plan.subject, r.plan.onBytes, filepath.Join(r.staging, "memory-ranges"))
}

// mapMemory points the VMM at the materialised RAM file. The VM keeps a hard link
// to it, so the cache may drop the file while the VM lives. The VMM opens it by
// another name, which startAfresh then replaces.
func (r *run) mapMemory(ctx context.Context) error {
	file, err := r.materialise(ctx, r.lease, r.plan.subject, r.plan.onBytes)
	if err != nil {
		return err
	}
	dir := r.VMs.Dir(r.rec.ID)
	boot, zeros := filepath.Join(dir, vm.MemoryBoot), filepath.Join(dir, vm.MemoryZero)
	if err := errors.Join(os.Link(file, filepath.Join(dir, vm.MemoryBase)), os.Link(file, boot)); err != nil {
		return fmt.Errorf("link materialised RAM: %w", err)
	}
	if err := newSparse(zeros, r.plan.MemoryBytes, func(*os.File) error { return nil }); err != nil {
		return fmt.Errorf("make zeros for the next boot: %w", err)
	}
	if err := r.makeStaging(ctx, dir); err != nil {
		return err
	}
	c, s, err := r.documents(ctx, zeros)
	if err != nil {
		return err
	}
	if err := chsnap.MapMemory(c, s, boot); err != nil {
		return err
	}
	return writeFolder(r.staging, c, s)
}

// loadMapped has the VMM map the RAM, and then makes sure that it is never mapped
// again.
func (r *run) loadMapped(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	return r.startAfresh()
}

// startAfresh puts zeros where the VMM found the RAM. The VMM has mapped the
// file, so the name no longer matters to it; but it opens the name again when the
// guest reboots, in the same process, and a guest may expect to boot on zeros. A
// VMM confined by Landlock may open only the files it was given, by whatever
// name, and checks again at a reboot that all exist: so the zeros exist before it
// loads, and keep their name.
func (r *run) startAfresh() error {
	dir := r.VMs.Dir(r.rec.ID)
	name := filepath.Join(dir, vm.MemoryNew)
	err := os.Link(filepath.Join(dir, vm.MemoryZero), name)
	if err == nil {
		err = durable.Replace(name, filepath.Join(dir, vm.MemoryBoot))
	}
	if err != nil {
		return fmt.Errorf("put zeros in place of the RAM for the next boot: %w", err)
	}
	return nil
}

func (r *run) makeStaging(ctx context.Context, base string) error {
	me, err := r.Store.Owner(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, me.StagingPrefix(owner.OfRestore, r.rec.ID))
	if err != nil {
		return fmt.Errorf("make staging folder: %w", err)
	}
	r.staging = dir
	return nil
}

// removeStaging deletes what a dead restore of this VM left on tmpfs.
func (e *Engine) removeStaging(ctx context.Context, vmID string) error {
	me, err := e.Store.Owner(ctx)
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(owner.StagingFolder, me.StagingPrefix(owner.OfRestore, vmID)+"*"))
	if err != nil {
		return err
	}
	for _, d := range left {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

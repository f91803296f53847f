package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// RemoveOptions of Remove.
type RemoveOptions struct {
	Force bool // a protected one too
}

// Remove unpublishes a snapshot: one rename into the trash. Its blobs stay
// until gc finds that nothing names them.
func (s *Store) Remove(ctx context.Context, id ID, o RemoveOptions) error {
	err := s.names(ctx, func() error {
		return s.shared(ctx, func() error { return s.unpublish(ctx, id, o) })
	})
	if err != nil {
		return err
	}
	durable.Step("store.remove.unpublished")
	if s.onRemove != nil {
		s.onRemove(ctx, id)
	}
	return os.RemoveAll(s.Path("trash", "snapshot-"+string(id)))
}

func (s *Store) unpublish(ctx context.Context, id ID, o RemoveOptions) error {
	dir := s.Path("snapshots", string(id))
	if _, err := os.Stat(dir); err != nil {
		return failure.New(failure.NotFound, "no snapshot %s", id)
	}
	m, err := readMeta(dir)
	if err != nil && !o.Force {
		return err
	}
	if m.Protected && !o.Force {
		return failure.Hint(failure.New(failure.Conflict, "snapshot %s is protected", id), "cocoon snapshot unprotect, or --force")
	}
	live, err := s.LeaseHoldings(ctx)
	if err != nil {
		return err
	}
	for _, h := range live {
		if slices.Contains(h.Snapshots, id) {
			return failure.New(failure.Conflict, "snapshot %s is in use by: %s", id, h.Purpose)
		}
	}
	if err := s.refuseSleeper(ctx, id); err != nil { // after the leases: who suspends holds one until his file is there
		return err
	}
	durable.Step("store.remove.checked")
	if err := durable.Publish(dir, s.Path("trash", "snapshot-"+string(id))); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// Exclusive is the right to decide what goes: only its holder may discard.
type Exclusive struct {
	st  *Store
	run string // trash/<run>
}

// Exclusive runs f while no process publishes, removes or leases. f must be
// short: everybody else waits.
func (s *Store) Exclusive(ctx context.Context, f func(*Exclusive) error) error {
	lock, err := s.locks.Exclusive(ctx)
	if err != nil {
		return err
	}
	x := &Exclusive{st: s, run: s.Path("trash", "gc-"+newID()[:16])}
	return errors.Join(f(x), lock.Unlock())
}

// ReapLeases removes the leases of dead holders, with their ingest folders,
// and counts both kinds.
func (x *Exclusive) ReapLeases(ctx context.Context) (live, reaped int, err error) {
	all, err := os.ReadDir(x.st.Path("leases"))
	if err != nil {
		return 0, 0, fmt.Errorf("read leases: %w", err)
	}
	for _, e := range all {
		if x.st.leaseLives(e.Name()) {
			live++
			continue
		}
		if _, err := os.Stat(x.st.Path("ingest", e.Name())); err == nil {
			if err := x.Discard(x.st.Path("ingest", e.Name())); err != nil {
				return live, reaped, err
			}
		}
		if err := os.Remove(x.st.Path("leases", e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return live, reaped, err
		}
		reaped++
	}
	return live, reaped, nil
}

// Discard moves files or folders of the store into this run's trash.
func (x *Exclusive) Discard(paths ...string) error {
	for _, p := range paths {
		if err := os.MkdirAll(x.run, 0o700); err != nil {
			return err
		}
		if err := durable.Trash(p, x.run); err != nil {
			return fmt.Errorf("discard %s: %w", p, err)
		}
		durable.Step("store.discard")
	}
	return nil
}

// EmptyTrash unlinks what was discarded, by this run or by earlier ones that
// died; it takes no lock. The answer is the bytes that were allocated.
func (s *Store) EmptyTrash(ctx context.Context) (int64, error) {
	entries, err := os.ReadDir(s.Path("trash"))
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, e := range entries {
		path := s.Path("trash", e.Name())
		freed += treeBytes(path)
		if err := os.RemoveAll(path); err != nil {
			return freed, fmt.Errorf("empty trash: %w", err)
		}
		durable.Step("store.trash.unlinked")
	}
	return freed, ctx.Err()
}

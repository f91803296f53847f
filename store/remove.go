package store

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store/trash"
)

// RemoveOptions of Remove.
type RemoveOptions struct {
	Force bool // a protected one too
}

// Remove unpublishes a snapshot: one rename into the trash (package trash). Its blobs
// stay until gc finds that nothing names them.
func (s *Store) Remove(ctx context.Context, id ID, o RemoveOptions) error {
	if s.veto == nil {
		return fmt.Errorf("remove snapshot %s: the store was opened without a Veto", id)
	}
	var trashed, name string
	err := s.Names().Lock(ctx, func() error {
		if err := s.removable(ctx, id, o); err != nil {
			return err
		}
		durable.Step("store.remove.checked")
		m, _ := readMeta(s.Path("snapshots", string(id))) // of one that is damaged the link stays, until somebody wants the name
		name = m.Name
		return s.at.Exclusive(ctx, func() (err error) {
			trashed, err = s.unpublish(ctx, id)
			return err
		})
	})
	if err != nil {
		return err
	}
	durable.Step("store.remove.unpublished")
	// Behind the lock: others need not wait for the disk.
	if err := durable.SyncParents(s.Path("snapshots", string(id)), trashed); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	if name != "" { // whose link goes when the snapshot cannot come back any more
		_ = s.Names().Lock(ctx, func() error { s.Names().Drop(name); return nil })
	}
	return s.unlink(trashed)
}

// unlink removes what lies in the trash, unless a collector runs: that tells
// snapshots by id and inode, and an id can come back by a pull; so no inode may
// be free for use before it ends, and it empties the trash itself.
func (s *Store) unlink(trashed string) error {
	collecting, err := filelock.Held(s.Path("gc.lock"))
	if collecting || err != nil {
		return err
	}
	return trash.Clear(trashed)
}

// removable refuses what may not be removed; unpublish looks at the leases again,
// when it has the store for itself. It asks for a veto, which takes longer, after
// the leases: who suspends a VM holds one until the file that says so is there.
func (s *Store) removable(ctx context.Context, id ID, o RemoveOptions) error {
	dir := s.Path("snapshots", string(id))
	if _, err := os.Stat(dir); err != nil {
		return failure.New(failure.NotFound, "no snapshot %s", id)
	}
	m, err := readMeta(dir)
	if err != nil && !o.Force {
		return err
	}
	if m.Protected && !o.Force {
		return failure.Hint(failure.New(failure.Conflict, "snapshot %s is protected", id), hint.Unprotect.Of(cmp.Or(m.Name, string(id)))+", or "+hint.Force.Of())
	}
	if err := s.refuseHeld(ctx, id); err != nil {
		return err
	}
	return s.veto(ctx, s, id)
}

// unpublish runs under the exclusive store lock: nobody adds to a lease now.
func (s *Store) unpublish(ctx context.Context, id ID) (trashed string, err error) {
	if err := s.refuseHeld(ctx, id); err != nil {
		return "", err
	}
	return s.Trash().Remove("snapshot", string(id), s.Path("snapshots", string(id)))
}

// refuseHeld: a living process that holds the snapshot needs it.
func (s *Store) refuseHeld(ctx context.Context, id ID) error {
	live, err := s.Leases().Live(ctx)
	if err != nil {
		return err
	}
	for _, h := range live {
		if slices.Contains(h.Snapshots, id) {
			return failure.New(failure.Conflict, "snapshot %s is in use by: %s", id, h.Purpose)
		}
	}
	return nil
}

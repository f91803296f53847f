package store

import (
	"context"
	"errors"
	"os"
)

// DropDerived removes what is rebuilt on demand from the manifests, and makes the
// links of names that are missing.
func (s *Store) DropDerived(ctx context.Context) error {
	if err := os.Remove(s.indexPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.Names().Complete(ctx)
}

// Reindex makes the index anew, of the snapshots alone.
func (s *Store) Reindex(ctx context.Context) error {
	if err := os.Remove(s.indexPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := s.list(ctx, true)
	return err
}

// FormerlyDerived lists the files that earlier programs kept for the same ends, with
// the lock under which they made refs.db: should one work beside us still, two of
// these could make it at once, and what came of that neither of us would believe.
func (s *Store) FormerlyDerived() (found []string) {
	for _, name := range []string{"cache/summaries", "cache/families", "refs.db.lock", "refs.db.new"} {
		path := s.Path(name)
		if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() {
			found = append(found, path)
		}
	}
	return found
}

package index

import (
	"context"
	"errors"
	"os"
)

// Drop removes the index.
func (x *Index) Drop() error {
	if err := os.Remove(x.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Rebuild makes the index anew, of the snapshots alone.
func (x *Index) Rebuild(ctx context.Context) error {
	if err := x.Drop(); err != nil {
		return err
	}
	_, err := x.list(ctx, true)
	return err
}

// Former lists the files that earlier programs kept for the same ends, with the lock
// under which they made refs.db: should one work beside us still, two of these could
// make it at once, and what came of that neither of us would believe.
func (x *Index) Former() (found []string) {
	for _, name := range []string{"cache/summaries", "cache/families", "refs.db.lock", "refs.db.new"} {
		path := x.at.Path(name)
		if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() {
			found = append(found, path)
		}
	}
	return found
}

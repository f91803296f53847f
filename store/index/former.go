package index

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Rebuild makes the index anew, of the snapshots alone. The one that is there stays
// until there is another.
func (x *Index) Rebuild(ctx context.Context) error {
	all, k, _, err := x.all(ctx, false)
	if err != nil {
		return err
	}
	if err := x.clear(); err != nil {
		return err
	}
	return x.write(all, k, true)
}

// clear removes what is no file from the place of the index, where nothing is lost by
// that.
func (x *Index) clear() error {
	path := x.path()
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && fi.Mode().IsRegular() {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, unix.ENOTEMPTY) {
		return failure.New(failure.Damaged, "%s is a folder that is not empty, where the index is to be; see what is in it, then: rm -r %s", path, path)
	}
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

package ramcache

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/store"
)

// Filler writes RAM into a sparse file that has its length and holds zeros, and
// reports how many bytes it wrote.
type Filler func(ctx context.Context, f *os.File, wrote func(bytes int64)) error

// errMadeByAnother: the file we locked got its name, or was removed, while we
// waited for the lock.
var errMadeByAnother = errors.New("made by another process")

// Make returns the raw RAM file of a snapshot and makes it, bytes long, if it is
// missing. The holder of the lock of its unfinished file makes it, others wait.
// It is fsynced before it gets its name. The lease holds it from then on, and its
// packs while they are read.
func (c Cache) Make(ctx context.Context, lease *store.Lease, sn *store.Snapshot, bytes int64, fill Filler) (string, error) {
	key := Key(sn)
	if err := lease.Hold(ctx, key); err != nil {
		return "", err
	}
	path := Path(c.Store, key)
	for {
		if there, err := c.use(key); there || err != nil {
			return path, err
		}
		lock, err := filelock.Exclusive(ctx, unfinished(path))
		if err != nil {
			return "", fmt.Errorf("wait for the RAM of snapshot %s to be made: %w", sn.ID, err)
		}
		err = makeLocked(ctx, lock, path, bytes, fill)
		if uerr := lock.Unlock(); err == nil {
			err = uerr
		}
		if err == nil {
			return path, c.Trim(ctx) // it is held; that there is no room for it is no reason to fail
		}
		if !errors.Is(err, errMadeByAnother) {
			return "", fmt.Errorf("RAM of snapshot %s: %w", sn.ID, err)
		}
	}
}

// makeLocked fills the locked file and gives it its name. On error it is removed.
func makeLocked(ctx context.Context, lock *filelock.Lock, path string, bytes int64, fill Filler) (err error) {
	f := lock.File()
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Stat(unfinished(path)); err != nil || !os.SameFile(ours, named) {
		return errMadeByAnother
	}
	defer func() {
		if err != nil {
			os.Remove(unfinished(path))
		}
	}()
	if _, err := os.Stat(path); err == nil {
		return errMadeByAnother // and gc has not yet taken what he left
	}
	if err := errors.Join(f.Truncate(0), f.Truncate(bytes)); err != nil { // it may be a dead maker's
		return err
	}
	w := durable.NewWriteback(f)
	err = fill(ctx, f, w.Wrote)
	w.Wait()
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	durable.Step("restore.materialised")
	return durable.Publish(unfinished(path), path)
}

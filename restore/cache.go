package restore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/store"
)

// cached tells whether a snapshot's RAM need not be made.
func (e *Engine) cached(sn *store.Snapshot) bool {
	_, err := os.Stat(e.Store.CachePath(store.MemoryKey(sn)))
	return err == nil
}

// materialise answers the raw, sparse RAM file of a snapshot in the cache and
// makes it where it is missing. Whoever has the lock of its unfinished file
// makes it, others wait for him. It is fsynced before it gets its name, so a
// file with a name is whole, also after a power cut.
func (e *Engine) materialise(ctx context.Context, lease *store.Lease, s *subject, onBytes told) (string, error) {
	key := store.MemoryKey(s.snapshot)
	if err := lease.Hold(ctx, key); err != nil {
		return "", err
	}
	path := e.Store.CachePath(key)
	for {
		if there, err := e.Store.UseCached(key); there || err != nil {
			return path, err
		}
		lock, err := filelock.Exclusive(ctx, path+".new")
		if err != nil {
			return "", fmt.Errorf("wait for the RAM of snapshot %s to be made: %w", s.snapshot.ID, err)
		}
		err = e.make(ctx, s, onBytes, lock, path)
		if uerr := lock.Unlock(); err == nil {
			err = uerr
		}
		if err == nil {
			return path, e.trim(ctx)
		}
		if !errors.Is(err, errMadeByAnother) {
			return "", err
		}
	}
}

// errMadeByAnother: the file that we locked got its name, or went, while we
// waited for the lock.
var errMadeByAnother = errors.New("made by another process")

// make fills the locked file and gives it its name. On error it is removed.
func (e *Engine) make(ctx context.Context, s *subject, onBytes told, lock *filelock.Lock, path string) (err error) {
	f := lock.File()
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Stat(path + ".new"); err != nil || !os.SameFile(ours, named) {
		return errMadeByAnother
	}
	defer func() {
		if err != nil {
			os.Remove(path + ".new")
		}
	}()
	if _, err := os.Stat(path); err == nil {
		return errMadeByAnother // and gc has not yet taken what he left
	}
	if err := errors.Join(f.Truncate(0), f.Truncate(s.ram.bytes)); err != nil { // it may be a dead maker's
		return err
	}
	w := durable.NewWriteback(f)
	err = e.fillMemory(ctx, s, f, onBytes, w)
	w.Wait()
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the RAM of snapshot %s: %w", s.snapshot.ID, err)
	}
	durable.Step("restore.materialised")
	return durable.Publish(path+".new", path)
}

// trim keeps the cache below its cap. What was made just now is held by our
// lease; that there is no room for it is no reason to fail.
func (e *Engine) trim(ctx context.Context) error {
	return e.Store.TrimCache(ctx, e.CacheCap)
}

// Materialise makes the RAM file of a snapshot ahead of the next clone, unless
// it is there, another process is at it, or the cache has no room for it. It
// answers whether the file is there afterwards.
func (e *Engine) Materialise(ctx context.Context, ref string) (bool, error) {
	if err := e.complete(); err != nil {
		return false, err
	}
	id, err := e.Store.Resolve(ctx, ref)
	if err != nil {
		return false, err
	}
	lease, err := e.Store.Lease(ctx, "materialise the RAM of snapshot "+string(id))
	if err != nil {
		return false, err
	}
	defer lease.Release()
	held, err := e.hold(ctx, lease, id)
	if err != nil {
		return false, err
	}
	bytes := held.ram.stored
	if bytes > e.CacheCap.Bytes() {
		return false, nil
	}
	if err := e.Store.Require(bytes); errors.Is(err, failure.NoSpace) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if busy, err := filelock.Held(e.Store.CachePath(store.MemoryKey(held.snapshot)) + ".new"); busy || err != nil {
		return false, err
	}
	_, err = e.materialise(ctx, lease, held, nil)
	return err == nil, err
}

package restore

import (
	"context"
	"errors"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

func (e *Engine) cache() ramcache.Cache { return ramcache.Cache{Store: e.Store, Cap: e.CacheCap} }

// materialise returns the raw, sparse RAM file of a snapshot in the cache, and
// makes it if it is missing.
func (e *Engine) materialise(ctx context.Context, lease *store.Lease, s *subject, onBytes told) (string, error) {
	return e.cache().Make(ctx, lease, s.snapshot, s.ram.bytes, func(ctx context.Context, f *os.File, wrote func(int64)) error {
		return e.fillMemory(ctx, s, f, onBytes, wrote)
	})
}

// Materialise makes the RAM file of a snapshot ahead of the next clone, unless it
// exists, another process is making it, or the cache has no room for it. It
// reports whether the file exists afterwards.
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
	s, err := e.hold(ctx, lease, id)
	if err != nil || s.ram.stored > e.CacheCap.Bytes() {
		return false, err
	}
	if err := e.Store.Space().Require(s.ram.stored); errors.Is(err, failure.NoSpace) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if busy, err := e.cache().Making(s.snapshot); busy || err != nil {
		return false, err
	}
	_, err = e.materialise(ctx, lease, s, nil)
	return err == nil, err
}

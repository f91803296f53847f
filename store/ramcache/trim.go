package ramcache

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/space"
	"github.com/cocoonv2/cocoon/store/trash"
)

// Room is the space of a store's file system for something to be made, bytes.
type Room struct {
	space.Room
	Cached int64 // more, after removing unused RAM from the cache
}

// Room checks and changes nothing; store.Require and Free act on it. The RAM of
// sn, which is about to be used, is not counted as cached.
func (c Cache) Room(sn *store.Snapshot) (r Room, err error) {
	if r.Room, err = c.Store.Space().Room(); err != nil {
		return r, err
	}
	all, err := Files(c.Store)
	keep := Key(sn)
	for _, f := range all {
		if !f.Mapped && f.Key != keep {
			r.Cached += f.Bytes
		}
	}
	return r, err
}

// OverCap picks what has to go so that all of the cache occupies at most cap
// bytes: the least recently used first, never one that is mapped or held. Files
// that may not go count as well.
func OverCap(all []File, held func(digest.Digest) bool, cap int64) []File {
	var total int64
	for _, f := range all {
		total += f.Bytes
	}
	var out []File
	for _, f := range all {
		if total <= cap {
			break
		}
		if !f.Mapped && !held(f.Key) {
			out, total = append(out, f), total-f.Bytes
		}
	}
	return out
}

// Free removes from the cache, least recently used first, as much as necessary
// for need bytes to be free.
func (c Cache) Free(ctx context.Context, need int64) error {
	room, err := c.Store.Space().Room()
	if err != nil {
		return err
	}
	missing := need - room.Free
	all, err := Files(c.Store)
	if err != nil || missing <= 0 {
		return err
	}
	var total int64
	for _, f := range all {
		total += f.Bytes
	}
	return Cache{c.Store, AtMost(total - missing)}.Trim(ctx)
}

// Trim makes the cache occupy no more than its cap, as far as OverCap may.
func (c Cache) Trim(ctx context.Context) error {
	limit := c.Cap.Bytes()
	all, err := Files(c.Store)
	if err != nil || len(OverCap(all, func(digest.Digest) bool { return false }, limit)) == 0 {
		return err
	}
	sweep := c.Store.Trash().Run()
	if err := sweep.Prepare(); err != nil {
		return err
	}
	err = sweep.Window(ctx, func(w *trash.Window) error {
		held, err := c.held(ctx)
		if err != nil {
			return err
		}
		if all, err = Files(c.Store); err != nil {
			return err
		}
		for _, f := range OverCap(all, func(d digest.Digest) bool { return held[d] }, limit) {
			if err := w.Discard(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, sweep.Settle(), sweep.Empty()); err != nil {
		return fmt.Errorf("trim the cache: %w", err)
	}
	return nil
}

// held are the digests that a living process needs.
func (c Cache) held(ctx context.Context) (map[digest.Digest]bool, error) {
	live, err := c.Store.Leases().Live(ctx)
	held := map[digest.Digest]bool{}
	for _, h := range live {
		for _, d := range h.Digests {
			held[d] = true
		}
	}
	return held, err
}

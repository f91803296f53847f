package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/spelling"
)

// The folder cache/memory holds RAM as raw sparse files, made from page maps and
// makeable again at any time:
//
//	<hex>       whole and fsynced before it got this name; never changed
//	<hex>.new   being made by whoever holds its lock, else a leftover
//
// The name is the [MemoryKey] of the snapshots whose RAM it is. Its time of
// modification is when it was last used. A VM that maps a file has a hard link
// to it, so a link count above one means that it is in use.

// MemoryKey names the raw RAM of a snapshot: the digest of its page maps in
// order, so snapshots with the same RAM share one file.
func MemoryKey(sn *Snapshot) digest.Digest {
	h := digest.SHA256.Digester()
	for _, m := range sn.Spec.Memory {
		fmt.Fprintf(h.Hash(), "%d %d %s\n", m.GPA, m.Bytes, m.Map)
	}
	return h.Digest()
}

// CachePath is where the raw RAM of a key lies or would lie.
func (s *Store) CachePath(key digest.Digest) string { return s.Path("cache", "memory", blobName(key)) }

// Cached is one whole file of the cache.
type Cached struct {
	Key    digest.Digest
	Path   string
	Bytes  int64 // allocated
	Used   time.Time
	Mapped bool // by a VM
}

// CachedMemory lists the whole files of the cache, least recently used first.
func (s *Store) CachedMemory() ([]Cached, error) {
	entries, err := os.ReadDir(s.Path("cache", "memory"))
	if err != nil {
		return nil, fmt.Errorf("list the cache: %w", err)
	}
	var all []Cached
	for _, e := range entries {
		path := s.Path("cache", "memory", e.Name())
		var st unix.Stat_t
		if !spelling.Hex(e.Name(), 64) || unix.Lstat(path, &st) != nil {
			continue
		}
		all = append(all, Cached{
			Key: digest.NewDigestFromEncoded(digest.SHA256, e.Name()), Path: path,
			Bytes: st.Blocks * 512, Used: time.Unix(st.Mtim.Unix()), Mapped: st.Nlink > 1,
		})
	}
	slices.SortStableFunc(all, func(a, b Cached) int { return a.Used.Compare(b.Used) })
	return all, nil
}

// UseCached notes that a file of the cache is used now and tells whether it is
// there. The caller's lease holds the key.
func (s *Store) UseCached(key digest.Digest) (bool, error) {
	err := unix.UtimesNanoAt(unix.AT_FDCWD, s.CachePath(key), nil, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// OverCap picks what has to go so that all of the cache occupies at most cap
// bytes: the least recently used first, never one that is mapped or held. Files
// that may not go count as well.
func OverCap(all []Cached, held func(digest.Digest) bool, cap int64) []Cached {
	var total int64
	for _, c := range all {
		total += c.Bytes
	}
	var out []Cached
	for _, c := range all {
		if total <= cap {
			break
		}
		if !c.Mapped && !held(c.Key) {
			out, total = append(out, c), total-c.Bytes
		}
	}
	return out
}

// FreeCache has the cache give up what it must, least recently used first, for
// need bytes to be free.
func (s *Store) FreeCache(ctx context.Context, need int64) error {
	free, err := s.free()
	if err != nil {
		return err
	}
	missing := need + spaceMargin - free
	all, err := s.CachedMemory()
	if err != nil || missing <= 0 {
		return err
	}
	var total int64
	for _, c := range all {
		total += c.Bytes
	}
	return s.TrimCache(ctx, CacheAtMost(total-missing))
}

// CacheCap is what the raw RAM files of the cache may occupy. The zero value is
// no limit, so that nobody empties the cache who only left it out.
type CacheCap struct {
	bounded bool
	bytes   int64
}

// CacheAtMost is a cap; 0 empties the cache of all that nobody uses.
func CacheAtMost(bytes int64) CacheCap { return CacheCap{true, max(0, bytes)} }

// Bytes is the cap, as large as can be where there is none.
func (c CacheCap) Bytes() int64 {
	if !c.bounded {
		return math.MaxInt64
	}
	return c.bytes
}

// TrimCache makes the cache occupy no more than the cap, as far as OverCap may.
func (s *Store) TrimCache(ctx context.Context, most CacheCap) error {
	cap := most.Bytes()
	all, err := s.CachedMemory()
	if err != nil || len(OverCap(all, func(digest.Digest) bool { return false }, cap)) == 0 {
		return err
	}
	sweep := s.Sweep()
	if err := sweep.Prepare(); err != nil {
		return err
	}
	err = sweep.Window(ctx, func(w *Window) error {
		held, err := s.heldDigests(ctx)
		if err != nil {
			return err
		}
		if all, err = s.CachedMemory(); err != nil {
			return err
		}
		for _, c := range OverCap(all, func(d digest.Digest) bool { return held[d] }, cap) {
			if err := w.Discard(c.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, sweep.Settle(), os.RemoveAll(sweep.run)); err != nil {
		return fmt.Errorf("trim the cache: %w", err)
	}
	return nil
}

func (s *Store) heldDigests(ctx context.Context) (map[digest.Digest]bool, error) {
	live, err := s.LeaseHoldings(ctx)
	held := map[digest.Digest]bool{}
	for _, h := range live {
		for _, d := range h.Digests {
			held[d] = true
		}
	}
	return held, err
}

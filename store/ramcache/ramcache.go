// Package ramcache keeps the RAM of snapshots as raw sparse files, which VMMs map
// and clones share. Each can be rebuilt from the page maps at any time, so any
// may be removed.
//
// In the folder cache/memory of the store lie
//
//	<hex>       whole and fsynced before it got this name; never changed
//	<hex>.new   being made by whoever has its lock, else a leftover
//
// The name is the [Key] of the snapshots with this RAM. Its modification time is
// when it was last used. A VM that maps a file has a hard link to it, so a link
// count above one means that it is in use; a process that is about to use one has
// its key in its lease.
//
// Invariants: a file with a name is whole, even after a power cut; nothing that
// is mapped or leased is removed, whatever the cap; the least recently used goes
// first. The caller decides how a file is filled.
package ramcache

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/lease"
)

// Cache is that of one store. The zero Cap is no limit.
type Cache struct {
	Store *store.Store
	Cap   Cap
}

// Key names the raw RAM of a snapshot: the digest of its page maps in order, so
// snapshots with the same RAM share one file.
func Key(sn *store.Snapshot) digest.Digest {
	h := digest.SHA256.Digester()
	for _, m := range sn.Spec.Memory {
		fmt.Fprintf(h.Hash(), "%d %d %s\n", m.GPA, m.Bytes, m.Map)
	}
	return h.Digest()
}

// Path is the path of a key's raw RAM.
func Path(st *store.Store, key digest.Digest) string {
	return st.Path("cache", "memory", key.Encoded())
}

// unfinished is the name of a file that is being made.
func unfinished(path string) string { return path + ".new" }

// Cap is how much the files may occupy. The zero value is no limit, so that
// omitting it does not empty the cache.
type Cap struct {
	bounded bool
	bytes   int64
}

// AtMost is a cap; 0 removes everything unused from the cache.
func AtMost(bytes int64) Cap { return Cap{true, max(0, bytes)} }

// Bytes is the cap, as large as can be where there is none.
func (c Cap) Bytes() int64 {
	if !c.bounded {
		return math.MaxInt64
	}
	return c.bytes
}

// File is one whole file of the cache.
type File struct {
	Key    digest.Digest
	Path   string
	Bytes  int64 // allocated
	Used   time.Time
	Mapped bool // by a VM
}

// Files lists the whole files of a store, least recently used first.
func Files(st *store.Store) ([]File, error) {
	entries, err := os.ReadDir(st.Path("cache", "memory"))
	if err != nil {
		return nil, fmt.Errorf("list the cache: %w", err)
	}
	var all []File
	for _, e := range entries {
		var file unix.Stat_t
		path := st.Path("cache", "memory", e.Name())
		if !spelling.Hex(e.Name(), 64) || unix.Lstat(path, &file) != nil {
			continue
		}
		all = append(all, File{
			Key: digest.NewDigestFromEncoded(digest.SHA256, e.Name()), Path: path,
			Bytes: file.Blocks * 512, Used: time.Unix(file.Mtim.Unix()), Mapped: file.Nlink > 1,
		})
	}
	slices.SortStableFunc(all, func(a, b File) int { return a.Used.Compare(b.Used) })
	return all, nil
}

// Has reports whether a snapshot's RAM file exists.
func (c Cache) Has(sn *store.Snapshot) bool {
	_, err := os.Stat(Path(c.Store, Key(sn)))
	return err == nil
}

// Making reports whether a snapshot's RAM file is being made now.
func (c Cache) Making(sn *store.Snapshot) (bool, error) {
	return filelock.Held(unfinished(Path(c.Store, Key(sn))))
}

// use notes that a file of the cache is used now and tells whether it is there.
// The caller's lease holds the key.
func (c Cache) use(key digest.Digest) (bool, error) {
	err := unix.UtimesNanoAt(unix.AT_FDCWD, Path(c.Store, key), nil, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// Follow renames a RAM file, whose contents do not change, when the pages of its
// snapshot are moved, unless the old name is in use. Without it a clone would
// rebuild the file.
func Follow(st *store.Store) {
	st.OnReplace(func(old, now *store.Snapshot, live []lease.Holding) error {
		was, is := Key(old), Key(now)
		for _, h := range live {
			if slices.Contains(h.Digests, was) {
				return nil
			}
		}
		err := durable.Rename(Path(st, was), Path(st, is))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	})
}

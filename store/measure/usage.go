// Package measure says what a store occupies, and in what two snapshots differ. It
// changes nothing.
//
// Words: usage is what files occupy on disk, each counted once, where it belongs
// ([Count]); two snapshots are alike when their specs differ in their page maps at
// most ([Alike]), and the same when every page has the same hash too ([Same]). No
// page is read for that: page maps and the indexes of packs have the hashes.
package measure

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Occupied counts files and the bytes that they occupy on disk: holes cost
// nothing, and a file with several names is counted once, where it is met
// first.
type Occupied struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (o *Occupied) add(n int64) { o.Files, o.Bytes = o.Files+1, o.Bytes+n }

// Usage is what a store occupies, with the keys of `system df --format json`.
// Packs, Maps, Documents and Unnamed are all blobs; Unique and Shared are the
// same blobs but for Unnamed, by how many snapshots name them.
type Usage struct {
	Snapshots int      `json:"snapshots"`
	Unique    Occupied `json:"unique"` // blobs that one snapshot names
	Shared    Occupied `json:"shared"` // blobs that several name
	Packs     Occupied `json:"packs"`
	Maps      Occupied `json:"maps"`
	Documents Occupied `json:"documents"` // specs, configurations, device states
	Manifests Occupied `json:"manifests"` // what snapshots/ holds
	Unnamed   Occupied `json:"unnamed"`   // blobs that no snapshot names: being written, or for gc
	Images    Occupied `json:"images"`
	VMs       Occupied `json:"vms"`    // records and disks
	Cache     Occupied `json:"cache"`  // raw RAM files, also those that only a VM still has
	Mapped    Occupied `json:"mapped"` // the part of Cache that VMs map
	Ingest    Occupied `json:"ingest"`
	Trash     Occupied `json:"trash"`
	Other     Occupied `json:"other"` // leases, journals, pins, indexes, fingerprints, locks
	Total     int64    `json:"totalBytes"`
	Free      int64    `json:"freeBytes"`
}

// named is a blob as the manifests name it.
type named struct {
	mediaType string
	snapshots int
}

// Count looks at every file of the store. A snapshot that cannot be read is an
// error: its blobs would be told as unnamed.
func Count(ctx context.Context, st *store.Store) (*Usage, error) {
	u := &Usage{}
	blobs := map[string]named{}
	for sn, err := range st.List(ctx) {
		if err != nil {
			return nil, fmt.Errorf("count: %w", err)
		}
		u.Snapshots++
		seen := map[digest.Digest]bool{}
		for _, d := range append([]store.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
			if !seen[d.Digest] {
				b := blobs[d.Digest.Encoded()]
				blobs[d.Digest.Encoded()] = named{d.MediaType, b.snapshots + 1}
			}
			seen[d.Digest] = true
		}
	}
	c := &counter{usage: u, root: st.Root(), blobs: blobs, inodes: map[inode]bool{}}
	// The cache comes before the VMs, which have further names of its files.
	for _, f := range append([]string{"cache/memory"}, layout.Folders()...) {
		if err := c.walk(ctx, st.Path(f)); err != nil {
			return nil, err
		}
	}
	if err := c.walk(ctx, st.Root()); err != nil {
		return nil, err
	}
	var err error
	u.Free, _, err = hostfacts.FreeBytes(st.Root())
	return u, err
}

type inode struct{ device, number uint64 }

// counter visits files, each inode once.
type counter struct {
	usage  *Usage
	root   string
	blobs  map[string]named
	inodes map[inode]bool
}

func (c *counter) walk(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away while we came
		}
		var st unix.Stat_t
		if ctx.Err() != nil || unix.Lstat(path, &st) != nil {
			return ctx.Err()
		}
		i := inode{uint64(st.Dev), st.Ino}
		if c.inodes[i] {
			return nil
		}
		c.inodes[i] = true
		c.usage.Total += st.Blocks * 512
		if d.IsDir() {
			c.usage.Other.Bytes += st.Blocks * 512
			return nil
		}
		rel, err := filepath.Rel(c.root, path)
		if err != nil {
			return err
		}
		c.count(rel, &st)
		return nil
	})
}

// count puts a file where it belongs.
func (c *counter) count(rel string, st *unix.Stat_t) {
	u, n := c.usage, st.Blocks*512
	top, _, _ := strings.Cut(rel, string(filepath.Separator))
	switch {
	case top == "blobs":
		c.blob(filepath.Base(rel), n)
	case top == "snapshots":
		u.Manifests.add(n)
	case top == "images":
		u.Images.add(n)
	case filepath.Dir(rel) == "cache/memory", top == "vms" && filepath.Base(rel) == "memory.base":
		u.Cache.add(n)
		if top == "vms" || st.Nlink > 1 {
			u.Mapped.add(n)
		}
	case top == "vms":
		u.VMs.add(n)
	case top == "ingest":
		u.Ingest.add(n)
	case top == "trash":
		u.Trash.add(n)
	default:
		u.Other.add(n)
	}
}

func (c *counter) blob(name string, n int64) {
	u, b := c.usage, c.blobs[name]
	switch b.snapshots {
	case 0:
		u.Unnamed.add(n)
		return
	case 1:
		u.Unique.add(n)
	default:
		u.Shared.add(n)
	}
	switch b.mediaType {
	case store.MediaTypePack:
		u.Packs.add(n)
	case store.MediaTypePageMap:
		u.Maps.add(n)
	default:
		u.Documents.add(n)
	}
}

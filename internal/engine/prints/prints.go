// Package prints keeps the fingerprints of images (ranges of RAM, disks) captured
// since the host was booted, so that the next capture of the VM need not hash
// unchanged pages.
//
// In the folder cache/fingerprints of the store lie
//
//	<hex>   magic and the id of the key, filled up to headerBytes; then a print for
//	        each page
//
// The name is the digest of the image's page map: another image, even of a
// snapshot that comes back under the same id, never matches these prints. Nothing
// here is fsynced: the key ends with the boot (package fingerprint), and a file
// under another key is useless. Only the last capture of a VM, or of a series of
// imported folders, has prints; other leftovers are removed by gc ([List]).
//
// All of it is best effort: without prints every page is hashed, and nothing is
// ever refused for lack of them.
package prints

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

const (
	magic       = "cocoon fingerprints 1\n"
	headerBytes = 4096
)

// Path is the path of the prints of the image with this page map.
func Path(st *store.Store, pageMap digest.Digest) string {
	return st.Path("cache", "fingerprints", pageMap.Encoded())
}

// Key returns the key by which captures recognise unchanged pages; with nil or an
// error they hash all of them.
type Key func(context.Context) (*fingerprint.Key, error)

// Set is the prints of an unfinished snapshot. A nil one has none.
type Set struct {
	st  *store.Store
	dir string // of the ingest, with which goes what got no name
	key Key

	mu sync.Mutex
	of map[*packer.ImageWriter]*image
}

// image is the prints of an image in the making.
type image struct {
	own     *os.File
	failed  atomic.Bool   // own lacks something
	pageMap digest.Digest // of the image; "" while it has none
	parent  digest.Digest // the parent's page map; "" for none
	before  *os.File      // the parent's prints; nil for none
}

// Begin begins the prints of what an ingest takes in.
func Begin(st *store.Store, in *store.Ingest, key Key) *Set {
	if key == nil {
		return nil
	}
	return &Set{st: st, dir: in.Dir(), key: key, of: map[*packer.ImageWriter]*image{}}
}

// Of makes an image compare its pages with the prints of the page map parent (""
// for none), which must be the one the image was begun with, and record its own.
// It is called before any page is given.
func (s *Set) Of(ctx context.Context, iw *packer.ImageWriter, parent digest.Digest) {
	if s == nil {
		return
	}
	key, err := s.key(ctx)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own, err := os.OpenFile(filepath.Join(s.dir, fmt.Sprintf("fingerprints-%d", len(s.of))), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return
	}
	im := &image{own: own, parent: parent}
	if _, err := own.WriteAt(head(key), 0); err != nil {
		im.failed.Store(true)
	}
	f := packer.Fingerprints{Key: key, Own: noting{io.NewOffsetWriter(own, headerBytes), &im.failed}}
	if im.before = open(s.st, parent, key); im.before != nil {
		f.Parent = io.NewSectionReader(im.before, headerBytes, 1<<62)
	}
	iw.Fingerprint(f)
	s.of[iw] = im
}

// Mapped reports the page map of an image.
func (s *Set) Mapped(iw *packer.ImageWriter, pageMap digest.Digest) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if im := s.of[iw]; im != nil {
		im.pageMap = pageMap
	}
}

// Keep names the prints of a published snapshot, and drops those of the previous
// capture of its VM.
func (s *Set) Keep(ctx context.Context, sn *store.Snapshot) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[digest.Digest]bool{}
	for _, im := range s.of {
		if im.pageMap != "" && !im.failed.Load() {
			kept[im.pageMap] = durable.Replace(im.own.Name(), Path(s.st, im.pageMap)) == nil
		}
	}
	if sn.Spec.Parent == "" {
		return
	}
	parent, err := s.st.Get(ctx, sn.Spec.Parent)
	if err != nil || parent.Spec.VM.ID != sn.Spec.VM.ID {
		return
	}
	for _, im := range s.of {
		if im.parent != "" && !kept[im.parent] {
			_ = os.Remove(Path(s.st, im.parent))
		}
	}
}

// Close ends the use of prints; unnamed ones go with the ingest.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, im := range s.of {
		_ = im.own.Close()
		if im.before != nil {
			_ = im.before.Close()
		}
	}
	clear(s.of)
}

// open opens prints made under a key; nil if there are none.
func open(st *store.Store, pageMap digest.Digest, key *fingerprint.Key) *os.File {
	if pageMap == "" {
		return nil
	}
	f, err := os.Open(Path(st, pageMap))
	if err != nil {
		return nil
	}
	want := head(key)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		f.Close()
		return nil
	}
	return f
}

func head(key *fingerprint.Key) []byte {
	id := key.ID()
	return append([]byte(magic), id[:]...)
}

// noting remembers a failed write: earlier prints are then useless too, since a
// page that came twice may have an outdated print there.
type noting struct {
	to     io.WriterAt
	failed *atomic.Bool
}

// WriteAt is that of to.
func (n noting) WriteAt(p []byte, off int64) (int, error) {
	done, err := n.to.WriteAt(p, off)
	if err != nil {
		n.failed.Store(true)
	}
	return done, err
}

// File is one file of cache/fingerprints.
type File struct {
	PageMap digest.Digest
	Path    string
	Current bool // written since the host was started
}

// List lists them.
func List(st *store.Store) ([]File, error) {
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		return nil, fmt.Errorf("list fingerprints: %w", err)
	}
	started := time.Now().Add(-time.Duration(up.Uptime) * time.Second)
	var all []File
	err := layout.EachEntry(st.Path("cache", "fingerprints"), func(name []byte, _ uint64) {
		if !spelling.Hex(name, 64) {
			return
		}
		pageMap := digest.NewDigestFromEncoded(digest.SHA256, string(name))
		path := Path(st, pageMap)
		if fi, err := os.Lstat(path); err == nil {
			all = append(all, File{pageMap, path, fi.ModTime().After(started)})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list fingerprints: %w", err)
	}
	return all, nil
}

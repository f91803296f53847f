package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/fingerprint"
	"github.com/cocoonv2/cocoon/internal/spelling"
	"github.com/cocoonv2/cocoon/store/pack"
)

// The folder cache/fingerprints holds the prints of images (ranges of RAM, disks)
// that were captured since the host was started, so that the next capture of the
// VM need not hash what did not change:
//
//	<hex>   printsMagic and the id of the key, filled up to printsHeader; then a
//	        print for each page
//
// The name is the digest of the image's page map: another image, also one of a
// snapshot that comes back under the same id, has no part in its prints. Nothing
// here is fsynced: the key ends with the boot (package fingerprint), and a file
// under another key is as good as none. Of a VM, and of folders that were imported
// one upon the other, only the last capture has prints; what else is left over is
// gc's.
const (
	printsMagic  = "cocoon fingerprints 1\n"
	printsHeader = 4096
)

func (s *Store) printsPath(pageMap digest.Digest) string {
	return s.Path("cache", "fingerprints", blobName(pageMap))
}

// imagePrints are the prints of an image in the making.
type imagePrints struct {
	own     *os.File
	failed  atomic.Bool   // own lacks something
	pageMap digest.Digest // of the image; "" while it has none
	parent  digest.Digest // the parent's page map; "" for none
	before  *os.File      // the parent's prints; nil for none
}

// Fingerprint has an image look for unchanged pages by the prints of the one with
// the page map parent ("" for none), which must be the one that the image was
// begun with, and makes those of its own. It is called before any page is
// given. It is best effort, as all that follows: without prints every page is hashed.
func (in *Ingest) Fingerprint(ctx context.Context, iw *pack.ImageWriter, parent digest.Digest) {
	if in.st.fingerprints == nil {
		return
	}
	key, err := in.st.fingerprints(ctx)
	if err != nil {
		return
	}
	own, err := in.createFile("fingerprints", 0o600)
	if err != nil {
		return
	}
	p := &imagePrints{own: own, parent: parent}
	if _, err := own.WriteAt(printsHead(key), 0); err != nil {
		p.failed.Store(true)
	}
	f := pack.Fingerprints{Key: key, Own: noting{io.NewOffsetWriter(own, printsHeader), &p.failed}}
	if p.before = in.st.openPrints(parent, key); p.before != nil {
		f.Parent = io.NewSectionReader(p.before, printsHeader, 1<<62)
	}
	iw.Fingerprint(f)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.prints[iw] = p
}

// openPrints opens prints that were made under a key; nil where there are none.
func (s *Store) openPrints(pageMap digest.Digest, key *fingerprint.Key) *os.File {
	if pageMap == "" {
		return nil
	}
	f, err := os.Open(s.printsPath(pageMap))
	if err != nil {
		return nil
	}
	want := printsHead(key)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		f.Close()
		return nil
	}
	return f
}

func printsHead(key *fingerprint.Key) []byte {
	id := key.ID()
	return append([]byte(printsMagic), id[:]...)
}

// noting remembers that a write failed: what was written before is no good either,
// for a page that came again has an older print there.
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

// keepPrints gives the prints of a snapshot that is published their names, and
// drops those of the capture of its VM before it.
func (in *Ingest) keepPrints(ctx context.Context, sn *Snapshot) {
	kept := map[digest.Digest]bool{}
	for _, p := range in.prints {
		if p.pageMap != "" && !p.failed.Load() {
			kept[p.pageMap] = durable.Replace(p.own.Name(), in.st.printsPath(p.pageMap)) == nil
		}
	}
	if sn.Spec.Parent == "" {
		return
	}
	parent, err := in.st.Get(ctx, sn.Spec.Parent)
	if err != nil || parent.Spec.VM.ID != sn.Spec.VM.ID {
		return
	}
	for _, p := range in.prints {
		if p.parent != "" && !kept[p.parent] {
			_ = os.Remove(in.st.printsPath(p.parent))
		}
	}
}

// closePrints ends the use of prints; those that have got no name go with the
// ingest.
func (in *Ingest) closePrints() {
	for _, p := range in.prints {
		_ = p.own.Close()
		if p.before != nil {
			_ = p.before.Close()
		}
	}
	clear(in.prints)
}

// Prints is one file of cache/fingerprints.
type Prints struct {
	PageMap digest.Digest
	Path    string
	Current bool // written since the host was started
}

// Prints lists them.
func (s *Store) Prints() ([]Prints, error) {
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		return nil, fmt.Errorf("list fingerprints: %w", err)
	}
	started := time.Now().Add(-time.Duration(up.Uptime) * time.Second)
	var all []Prints
	err := EachEntry(s.Path("cache", "fingerprints"), func(name []byte, _ uint64) {
		if !spelling.Hex(name, 64) {
			return
		}
		pageMap := digest.NewDigestFromEncoded(digest.SHA256, string(name))
		path := s.printsPath(pageMap)
		if fi, err := os.Lstat(path); err == nil {
			all = append(all, Prints{pageMap, path, fi.ModTime().After(started)})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list fingerprints: %w", err)
	}
	return all, nil
}

package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/fingerprint"
	"github.com/cocoonv2/cocoon/internal/spelling"
	"github.com/cocoonv2/cocoon/store/pack"
)

// The folder cache/fingerprints holds the prints of RAM that was captured since
// the host was started, so that the next capture of the VM need not hash what
// did not change:
//
//	<hex>   printsMagic and the id of the key, filled up to printsHeader; then
//	        the prints of each range of RAM, in the order of the spec
//
// The name is the [MemoryKey] of the snapshot, as in cache/memory: a snapshot
// whose RAM is another's, also one that comes back under the same id, has no
// part in its prints. Nothing here is fsynced: the key ends with the boot (package
// fingerprint), and a file under another key is as good as none. Of a VM only
// its last capture has prints; what else is left over is gc's.
const (
	printsMagic  = "cocoon fingerprints 1\n"
	printsHeader = 4096
)

func (s *Store) printsPath(key digest.Digest) string {
	return s.Path("cache", "fingerprints", key.Encoded())
}

// printsFile is an open one, of RAM in these ranges.
type printsFile struct {
	*os.File
	ranges []MemoryRange
}

// rangeAt says where the prints of a range begin and how long they are.
func (f printsFile) rangeAt(i int) (offset, length int64) {
	offset = printsHeader
	for n, r := range f.ranges {
		if length = int64((r.Bytes + pack.PageSize - 1) / pack.PageSize * fingerprint.Bytes); n == i {
			break
		}
		offset += length
	}
	return offset, length
}

// RAMPrints are the prints of the RAM of a snapshot in the making, beside those
// of its parent. Nil has none.
type RAMPrints struct {
	key    *fingerprint.Key
	own    printsFile
	failed atomic.Bool // own lacks something
	parent *Snapshot   // may be nil
	before printsFile  // the parent's; File may be nil
}

// RAMPrints begins the prints of these ranges of RAM, whose maps are not known
// yet; what earlier calls began goes. It is best effort, as all that follows:
// without prints every page is hashed.
func (in *Ingest) RAMPrints(ctx context.Context, ranges []MemoryRange, parent *Snapshot) *RAMPrints {
	in.dropPrints()
	if in.st.fingerprints == nil {
		return nil
	}
	key, err := in.st.fingerprints(ctx)
	if err != nil {
		return nil
	}
	own, err := os.OpenFile(filepath.Join(in.dir, "fingerprints"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil
	}
	p := &RAMPrints{key: key, own: printsFile{own, ranges}, parent: parent}
	in.prints = p
	if _, err := own.WriteAt(printsHead(key), 0); err != nil {
		p.failed.Store(true)
	}
	if parent != nil {
		p.before = printsFile{in.st.openPrints(MemoryKey(parent), key), parent.Spec.Memory}
	}
	return p
}

// openPrints opens prints that were made under a key; nil where there are none.
func (s *Store) openPrints(memory digest.Digest, key *fingerprint.Key) *os.File {
	f, err := os.Open(s.printsPath(memory))
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

// Give has the image of range i look for unchanged pages by the prints of the
// parent's range at the same address.
func (p *RAMPrints) Give(iw *pack.ImageWriter, i int) {
	if p == nil {
		return
	}
	offset, _ := p.own.rangeAt(i)
	f := pack.Fingerprints{Key: p.key, Own: noting{io.NewOffsetWriter(p.own, offset), &p.failed}}
	same := func(r MemoryRange) bool { return r.GPA == p.own.ranges[i].GPA }
	if n := slices.IndexFunc(p.before.ranges, same); n >= 0 && p.before.File != nil {
		offset, length := p.before.rangeAt(n)
		f.Parent = io.NewSectionReader(p.before, offset, length)
	}
	iw.Fingerprint(f)
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

// keepPrints gives the prints of a snapshot that is published their name, and
// drops those of the capture of its VM before it.
func (in *Ingest) keepPrints(sn *Snapshot) {
	p := in.prints
	if p == nil || p.failed.Load() {
		return
	}
	memory := MemoryKey(sn)
	if os.Rename(p.own.Name(), in.st.printsPath(memory)) != nil || p.parent == nil {
		return
	}
	sameVM := sn.Spec.VM.ID != "" && p.parent.Spec.VM.ID == sn.Spec.VM.ID
	if before := MemoryKey(p.parent); sameVM && before != memory {
		_ = os.Remove(in.st.printsPath(before))
	}
}

// dropPrints ends the use of prints, and removes those that have got no name.
func (in *Ingest) dropPrints() {
	p := in.prints
	if p == nil {
		return
	}
	in.prints = nil
	_ = os.Remove(p.own.Name())
	_ = p.own.Close()
	if p.before.File != nil {
		_ = p.before.Close()
	}
}

// Prints is one file of cache/fingerprints.
type Prints struct {
	Memory  digest.Digest
	Path    string
	Bytes   int64 // allocated
	Current bool  // written since the host was started
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
		if !spelling.Hex(string(name), 64) {
			return
		}
		memory := digest.NewDigestFromEncoded(digest.SHA256, string(name))
		path := s.printsPath(memory)
		if fi, err := os.Lstat(path); err == nil {
			all = append(all, Prints{memory, path, FileBytes(path), fi.ModTime().After(started)})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list fingerprints: %w", err)
	}
	return all, nil
}

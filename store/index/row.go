package index

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

// A row of the index says of one snapshot, in this order: what its files looked
// like when the row was made, when it was captured and on which images it stands
// (its families), its blobs, what a listing sorts, filters and shows, and the JSON
// that a listing prints, which is never parsed. Numbers are varints; texts and the
// blobs have their length before them.
//
// rowVersion changes with what a row says or how; a row of another is read anew.
const rowVersion = 2

// cached is a Summary with what tells whether it is still true, and the blobs
// from which unique sizes follow.
type cached struct {
	Summary  Summary
	stamp    stamp
	families []digest.Digest
	blobs    blobShares
	whole    bool   // all was read that a row says
	row      string // that it was read from, or that is to be kept for its snapshot
}

// blobShares are blobs, each by half of its digest and its bytes as 8 bytes: a row is
// read without a look at them.
type blobShares string

const digestHalf, shareBytes = 16, 24

func (b blobShares) with(d document.Descriptor) blobShares {
	var share [shareBytes]byte
	_, _ = hex.Decode(share[:digestHalf], []byte(d.Digest.Encoded()[:2*digestHalf])) // checked where the manifest was read
	binary.LittleEndian.PutUint64(share[digestHalf:], uint64(d.Size))
	return b + blobShares(share[:])
}

func (b blobShares) each(visit func(digest string, bytes int64)) {
	for ; len(b) >= shareBytes; b = b[shareBytes:] {
		visit(string(b[:digestHalf]), int64(binary.LittleEndian.Uint64([]byte(b[digestHalf:shareBytes]))))
	}
}

// stamp changes whenever a file of the snapshot's folder is replaced or written to.
type stamp struct{ meta, manifest fileStamp }

// fileStamp has ctime, for mtime can be set to what it was.
type fileStamp struct {
	inode uint64
	ctime int64 // ns
}

// changed is when the last of the files was.
func (s stamp) changed() time.Time { return time.Unix(0, max(s.meta.ctime, s.manifest.ctime)) }

// encode gives the row.
func (c *cached) encode() (string, error) {
	s := &c.Summary
	text, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	b := rowWriter{rowVersion}
	for _, f := range []fileStamp{c.stamp.meta, c.stamp.manifest} {
		b.uint(f.inode)
		b.int(f.ctime)
	}
	b.ints(s.Created.Unix(), int64(s.Created.Nanosecond()))
	b.uint(uint64(len(c.families)))
	for _, d := range c.families {
		b.texts(string(d))
	}
	b.texts(string(c.blobs), string(s.ID), s.Name, s.VM.ID, s.VM.Name, s.Description, string(s.State), s.Hypervisor.Name, s.Hypervisor.Version, string(s.Parent), s.Capture.Mode, s.Key)
	b.uint(uint64(len(s.Labels)))
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		b.texts(k, s.Labels[k])
	}
	b.expiry(s.Expires)
	b.ints(int64(s.CPUs), s.Memory.Bytes, int64(s.Memory.ZeroBytes), s.Size.Virtual, s.Size.Stored, s.Size.Unique)
	b.uint(uint64(len(s.Disks)))
	for _, d := range s.Disks {
		b.texts(d.Serial)
		b.int(d.Bytes)
	}
	for _, n := range []uint64{map[bool]uint64{true: 1}[s.Protected], math.Float64bits(s.Capture.PauseMs), math.Float64bits(float64(s.Capture.TotalMs)), s.Capture.PagesNew, s.Capture.PagesReused, s.Capture.PagesZero} {
		b.uint(n)
	}
	return string(append(b, text...)), nil
}

// rowWriter is a row in the making.
type rowWriter []byte

func (b *rowWriter) uint(n uint64) { *b = binary.AppendUvarint(*b, n) }
func (b *rowWriter) int(n int64)   { *b = binary.AppendVarint(*b, n) }

func (b *rowWriter) ints(all ...int64) {
	for _, n := range all {
		b.int(n)
	}
}

func (b *rowWriter) texts(all ...string) {
	for _, s := range all {
		b.uint(uint64(len(s)))
		*b = append(*b, s...)
	}
}

// expiry is kept with its zone, as it is printed; "" is never.
func (b *rowWriter) expiry(t *time.Time) {
	if t == nil {
		b.texts("")
		return
	}
	text, _ := t.MarshalText() // it was marshalled as JSON before
	b.texts(string(text))
}

var errRow = errors.New("no row of this program")

// decode fills c, which is empty, from a row, of which texts are parts.
func (c *cached) decode(row string) error {
	if row == "" || row[0] != rowVersion {
		return errRow
	}
	r := &rowReader{rest: row[1:]}
	c.row, c.whole = row, true
	c.stamp = stamp{fileStamp{r.uint(), r.int()}, fileStamp{r.uint(), r.int()}}
	c.Summary.Created = time.Unix(r.int(), r.int()).UTC()
	for range r.count() {
		c.families = append(c.families, digest.Digest(r.text()))
	}
	c.blobs = blobShares(r.text())
	s := &c.Summary
	s.ID, s.Name, s.VM.ID, s.VM.Name, s.Description = layout.ID(r.text()), r.text(), r.text(), r.text(), r.text()
	s.State, s.Hypervisor.Name, s.Hypervisor.Version, s.Parent = document.State(r.text()), r.text(), r.text(), layout.ID(r.text())
	s.Capture.Mode, s.Key, s.Labels = r.text(), r.text(), map[string]string{}
	for range r.count() {
		k := r.text()
		s.Labels[k] = r.text()
	}
	s.Expires = r.expiry()
	s.CPUs, s.Memory.Bytes, s.Memory.ZeroBytes = int(r.int()), r.int(), Bytes(r.int())
	s.Size = Size{r.int(), r.int(), r.int()}
	s.Disks = make([]DiskSummary, r.count())
	for i := range s.Disks {
		s.Disks[i] = DiskSummary{r.text(), r.int()}
	}
	s.Protected = r.uint() != 0
	s.Capture.PauseMs, s.Capture.TotalMs = math.Float64frombits(r.uint()), Ms(math.Float64frombits(r.uint()))
	s.Capture.PagesNew, s.Capture.PagesReused, s.Capture.PagesZero = r.uint(), r.uint(), r.uint()
	s.encoded = r.rest
	if !strings.HasPrefix(s.encoded, "{") || !strings.HasSuffix(s.encoded, "}") {
		r.bad = true
	}
	return r.err()
}

// rowReader reads what rowWriter writes; what does not fit is bad from there on.
type rowReader struct {
	rest string
	bad  bool
}

func (r *rowReader) err() error {
	if r.bad {
		return errRow
	}
	return nil
}

func (r *rowReader) uint() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		if len(r.rest) == 0 {
			break
		}
		b := r.rest[0]
		r.rest = r.rest[1:]
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	r.bad = true
	return 0
}

func (r *rowReader) int() int64 {
	n := r.uint()
	return int64(n>>1) ^ -int64(n&1)
}

// count is of things of which each takes a byte at least.
func (r *rowReader) count() uint64 { return r.bounded(r.uint()) }

func (r *rowReader) bounded(n uint64) uint64 {
	if n > uint64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return n
}

func (r *rowReader) text() string { return r.take(r.count()) }

func (r *rowReader) take(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

func (r *rowReader) expiry() *time.Time {
	text := r.text()
	if text == "" {
		return nil
	}
	t := &time.Time{}
	if t.UnmarshalText([]byte(text)) != nil {
		r.bad = true
	}
	return t
}

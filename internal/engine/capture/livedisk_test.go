package capture

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
)

// diskLab is a disk file in a store's ingest.
type diskLab struct {
	t    *testing.T
	st   *store.Store
	in   *store.Ingest
	path string
	file *os.File
}

func newDiskLab(t *testing.T, size int64) *diskLab {
	t.Helper()
	ctx := t.Context()
	st, err := store.Open(ctx, t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := st.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lease.Release() })
	l := &diskLab{t: t, st: st, path: filepath.Join(t.TempDir(), "disk")}
	if l.in, err = st.Ingest(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if l.file, err = os.Create(l.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.file.Close() })
	if err := l.file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return l
}

// write puts n random bytes at off.
func (l *diskLab) write(rnd *rand.Rand, off, n int64) {
	l.t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	if _, err := l.file.WriteAt(b, off); err != nil {
		l.t.Fatal(err)
	}
}

func (l *diskLab) punch(off, n int64) {
	l.t.Helper()
	if err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		l.t.Skipf("no holes here: %v", err)
	}
}

// packed is the disk as its page map says.
func (l *diskLab) packed(d *liveDisk) []byte {
	l.t.Helper()
	ctx := l.t.Context()
	if err := d.pack(); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.in.Pages(ctx).Flush(ctx); err != nil {
		l.t.Fatal(err)
	}
	m, err := (&source{ingest: l.in}).putMap(ctx, d.image)
	if err != nil {
		l.t.Fatal(err)
	}
	sn := &store.Snapshot{Spec: store.Spec{Disks: []store.Disk{{Map: m, Bytes: d.bytes}}}}
	im, err := contents.Of(l.st, sn).Disk(ctx, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer im.Close()
	b, err := io.ReadAll(io.NewSectionReader(im, 0, d.bytes))
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// A disk that is written to between and during the passes ends as the file is
// when it stands still: new blocks, changed ones, holes, an end that is no block.
func TestALiveDiskIsWhatTheFileIsAtLast(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const size = 40<<20 + 3*512
	l := newDiskLab(t, size)
	for range 20 {
		l.write(rnd, rnd.Int64N(size-300_000), 1+rnd.Int64N(300_000))
	}
	ctx := t.Context()
	d, err := newLiveDisk(l.path, l.in.Dir(), l.in.Pages(ctx), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var told int64
	if err := d.first(ctx, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	if told != size {
		t.Errorf("progress told %d bytes of %d", told, int64(size))
	}
	for range 10 {
		l.write(rnd, rnd.Int64N(size-70_000), 1+rnd.Int64N(70_000))
		l.punch(rnd.Int64N(size-1<<20), rnd.Int64N(1<<20))
	}
	l.write(rnd, size-100, 100)
	if err := d.changed(ctx); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(l.packed(d), want) {
		t.Error("the packed disk is not the file")
	}
}

// A file whose times did not move is not read again; one that was written to just
// before the first pass is, whatever its times say.
func TestAnUntouchedDiskIsNotReadAgain(t *testing.T) {
	for age, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		l := newDiskLab(t, 1<<20)
		l.write(rand.New(rand.NewPCG(1, 1)), 0, 1<<20)
		d, err := newLiveDisk(l.path, l.in.Dir(), l.in.Pages(t.Context()), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		d.began = d.began.Add(age) // as if the last write lay so far back
		if got := d.untouched(); got != want {
			t.Errorf("last written %s before: untouched is %v", age, got)
		}
		l.write(rand.New(rand.NewPCG(2, 2)), 5, 1)
		if d.untouched() {
			t.Error("a disk that was written to is called untouched")
		}
	}
}

func BenchmarkCompareDisk(b *testing.B) {
	path := filepath.Join(b.TempDir(), "disk")
	const size = 256 << 20
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	key, err := ownKey()
	if err != nil {
		b.Fatal(err)
	}
	d := &liveDisk{file: f, bytes: size, block: smallestBlock, read: readBytes, key: key, prints: map[int64]fingerprint.Print{}}
	buf := make([]byte, d.read)
	for off := int64(0); off < size; off += d.read {
		if err := d.fill(buf, off); err != nil {
			b.Fatal(err)
		}
		d.each(buf, off, func(block int64, p []byte) error { d.prints[block] = d.key.Of(p, uint64(block)); return nil })
	}
	b.SetBytes(size)
	for b.Loop() {
		d.began = time.Now()
		if err := d.changed(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

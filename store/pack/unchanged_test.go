package pack_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// printFile keeps prints in memory, as many as an image of a few pages needs.
type printFile struct {
	mu sync.Mutex
	b  []byte
}

func (f *printFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *printFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := int(off) + len(p); end > len(f.b) {
		f.b = append(f.b, make([]byte, end-len(f.b))...)
	}
	return copy(f.b[off:], p), nil
}

func printKey(t testing.TB) *fingerprint.Key {
	t.Helper()
	k, err := fingerprint.New([fingerprint.SecretBytes]byte{9}, "a boot")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// printsOf are the prints of an image as they should be; of zero pages they mean
// nothing, and are zero here.
func printsOf(t testing.TB, image []byte) *printFile {
	t.Helper()
	f, k := &printFile{}, printKey(t)
	for page := range slices.Chunk(image, pack.PageSize) {
		var p fingerprint.Print
		page = append(slices.Clone(page), make([]byte, pack.PageSize-len(page))...)
		if !pack.IsZero(page) {
			p = k.Of(page, uint64(len(f.b)/fingerprint.Bytes))
		}
		f.b = append(f.b, p[:]...)
	}
	return f
}

// checkPrints compares prints of all pages of an image that are not zero.
func checkPrints(t errorer, got, want *printFile) {
	for at := 0; at < len(want.b); at += fingerprint.Bytes {
		w := want.b[at : at+fingerprint.Bytes]
		if !bytes.Equal(w, make([]byte, fingerprint.Bytes)) && (at+fingerprint.Bytes > len(got.b) || !bytes.Equal(got.b[at:at+fingerprint.Bytes], w)) {
			t.Errorf("page %d has not its print", at/fingerprint.Bytes)
			return
		}
	}
}

// errorer is what tests of all kinds have.
type errorer interface {
	Errorf(format string, args ...any)
}

// fingerprinted saves an image that looks for unchanged pages by f.
func fingerprinted(t testing.TB, s packer.Sink, r io.ReaderAt, size int64, parent *pack.Image, f packer.Fingerprints) (*pack.Map, packer.Stats) {
	t.Helper()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	defer w.Abort()
	iw := w.Image(uint64(size), parent)
	iw.Fingerprint(f)
	if err := iw.ReadFrom(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	return finish(t, w, iw)
}

// With prints, without, and with prints that say nothing or are lost: the same
// map and the same packs. Sources that are mapped and such as are read.
func TestPrintsChangeNothingThatIsStored(t *testing.T) {
	ram := ramgen.New(9<<20+100, 3)
	first, second := make([]byte, ram.Bytes()), make([]byte, ram.Bytes())
	next := ram.Mutate(0.07, 4)
	for im, b := range map[*ramgen.Image][]byte{ram: first, next: second} {
		if _, err := im.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	s := newShelf()
	base, _ := save(t, s, ram, ram.Bytes(), nil)
	parent := open(t, s, base)
	want, wantStats := save(t, s, next, next.Bytes(), parent)
	right, wrong := printsOf(t, first), printsOf(t, first)
	for i := range wrong.b {
		wrong.b[i] ^= 0x5a
	}
	for name, known := range map[string]io.ReaderAt{
		"right": right, "wrong": wrong, "half of them": &printFile{b: right.b[:len(right.b)/2-5]},
		"none": nil, "unreadable": brokenReader{},
	} {
		for kind, source := range map[string]io.ReaderAt{"mapped": fileWith(t, second), "read": bytes.NewReader(second)} {
			own := &printFile{}
			m, st := fingerprinted(t, s, source, int64(len(second)), parent, packer.Fingerprints{Key: printKey(t), Parent: known, Own: own})
			if d := cmp.Diff(want, m); d != "" {
				t.Errorf("%s prints, source %s: %s", name, kind, d)
			}
			if d := cmp.Diff(wantStats, st); d != "" {
				t.Errorf("%s prints, source %s: %s", name, kind, d)
			}
			checkPrints(t, own, printsOf(t, second))
		}
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errors.New("bad sector") }

// A print is believed: a page that has the print of the parent's is not hashed.
// (That it is another page can only be made up with the key.)
func TestPrintsSpareTheHash(t *testing.T) {
	old, changed := bytes.Repeat(palette(1), 3), bytes.Repeat(palette(2), 3)
	s := newShelf()
	base, _ := save(t, s, bytes.NewReader(old), int64(len(old)), nil)
	forged := printsOf(t, changed)
	copy(forged.b[fingerprint.Bytes:], make([]byte, fingerprint.Bytes)) // of page 1 nothing is known
	m, _ := fingerprinted(t, s, bytes.NewReader(changed), int64(len(changed)), open(t, s, base), packer.Fingerprints{Key: printKey(t), Parent: forged, Own: &printFile{}})
	want := slices.Concat(palette(1), palette(2), palette(1))
	if !bytes.Equal(load(t, s, m), want) {
		t.Error("pages 0 and 2 were hashed, or page 1 was not")
	}
}

// A page that is zero in the parent has no print, whatever its place holds.
func TestPrintsOfZeroPagesMeanNothing(t *testing.T) {
	old, changed := make([]byte, 2*pack.PageSize), slices.Concat(palette(1), make([]byte, pack.PageSize))
	copy(old[pack.PageSize:], palette(2))
	s := newShelf()
	base, _ := save(t, s, bytes.NewReader(old), int64(len(old)), nil)
	m, _ := fingerprinted(t, s, bytes.NewReader(changed), int64(len(changed)), open(t, s, base), packer.Fingerprints{Key: printKey(t), Parent: printsOf(t, changed), Own: &printFile{}})
	if !bytes.Equal(load(t, s, m), changed) {
		t.Error("a page became another")
	}
}

// Prints of pages that cannot be kept are lost, the image is not.
func TestPrintsThatCannotBeKeptCostNothing(t *testing.T) {
	b := bytes.Repeat(palette(3), 5)
	s := newShelf()
	m, _ := fingerprinted(t, s, bytes.NewReader(b), int64(len(b)), nil, packer.Fingerprints{Key: printKey(t), Parent: nil, Own: fullDisk{}})
	if !bytes.Equal(load(t, s, m), b) {
		t.Error("the image differs")
	}
}

type fullDisk struct{}

func (fullDisk) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no space") }

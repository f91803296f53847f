package pack_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// palette gives one of n page contents; 0 is the zero page.
func palette(n byte) []byte {
	p := make([]byte, pack.PageSize)
	if n > 0 {
		ramgen.NewHard(1<<20, uint64(n)).Page(p, 0)
		p[0], p[pack.PageSize-1] = n, n
	}
	return p
}

// TestWritesInAnyOrderReadBack models an image as a byte slice: any sequence
// of writes, with or without a parent and its prints, gives the slice back, whole
// and in parts.
func TestWritesInAnyOrderReadBack(t *testing.T) {
	colours := make([][]byte, 12)
	for i := range colours {
		colours[i] = palette(byte(i))
	}
	key := printKey(t)
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(0, 40*pack.PageSize).Draw(rt, "bytes")
		s := newShelf()
		var parent *pack.Image
		var prints *printFile // of parent
		for generation := range 3 {
			model := make([]byte, size)
			w := packer.NewWriter(t.Context(), s, packer.WriterOptions{Workers: 2})
			iw := w.Image(uint64(size), parent)
			f := packer.Fingerprints{Key: key, Own: &printFile{}}
			if prints != nil && rapid.Bool().Draw(rt, "prints") {
				f.Parent = prints
			}
			iw.Fingerprint(f)
			pages := int(pack.PagesOf(uint64(size)))
			for range rapid.IntRange(0, 12).Draw(rt, "writes") {
				if pages == 0 {
					break
				}
				first := rapid.IntRange(0, pages-1).Draw(rt, "first")
				var b []byte
				for range rapid.IntRange(1, 6).Draw(rt, "pages") {
					b = append(b, colours[rapid.IntRange(0, len(colours)-1).Draw(rt, "colour")]...)
				}
				b = b[:min(len(b), size-first*pack.PageSize)]
				copy(model[first*pack.PageSize:], b)
				if _, err := iw.WriteAt(b, int64(first*pack.PageSize)); err != nil {
					rt.Fatal(err)
				}
				clear(b) // the caller may reuse it
			}
			m, st := finish(t, w, iw)
			if st.PagesNew+st.PagesReused+st.PagesZero != uint64(pages) {
				rt.Fatalf("stats %+v do not sum to %d pages", st, pages)
			}
			if parent = reread(rt, t, s, m); !bytes.Equal(load(t, s, m), model) {
				rt.Fatalf("generation %d differs", generation)
			}
			prints = f.Own.(*printFile)
			checkPrints(rt, prints, printsOf(t, model))
			from := rapid.IntRange(0, size).Draw(rt, "from")
			part := make([]byte, rapid.IntRange(0, size-from).Draw(rt, "length"))
			if _, err := parent.ReadAt(part, int64(from)); err != nil && !(err == io.EOF && from == size) {
				rt.Fatal(err)
			}
			if !bytes.Equal(part, model[from:from+len(part)]) {
				rt.Fatalf("generation %d: bytes %d+%d differ", generation, from, len(part))
			}
		}
	})
}

// reread encodes, decodes and opens a map.
func reread(rt *rapid.T, t *testing.T, s *shelf, m *pack.Map) *pack.Image {
	b, err := m.Encode()
	if err != nil {
		rt.Fatal(err)
	}
	again, err := pack.DecodeMap(t.Context(), b, keyring.None())
	if err != nil {
		rt.Fatal(err)
	}
	if d := cmp.Diff(*m, *again, cmp.Comparer(func(a, b []pack.Run) bool { return cmp.Equal(append([]pack.Run{}, a...), append([]pack.Run{}, b...)) })); d != "" && len(m.Packs) > 0 {
		rt.Fatal(d)
	}
	return open(t, s, again)
}

func TestLaterWriteOfAPageReplacesTheEarlier(t *testing.T) {
	s := newShelf()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	a, b := w.Image(600*pack.PageSize, nil), w.Image(600*pack.PageSize, nil)
	for round := byte(1); round <= 3; round++ {
		for _, iw := range []*packer.ImageWriter{a, b} {
			page := palette(round)
			for i := range int64(600) {
				page[8], page[9] = byte(i), byte(i>>8)
				if _, err := iw.WriteAt(page, i*pack.PageSize); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := a.WriteAt(make([]byte, 5*pack.PageSize), 7*pack.PageSize); err != nil {
		t.Fatal(err)
	}
	st, err := w.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := packer.Stats{PagesZero: 5, PagesNew: 600, PagesReused: 595, StoredBytes: int64(s.bytes())}
	if d := cmp.Diff(want, st); d != "" {
		t.Error(d)
	}
	for n, iw := range []*packer.ImageWriter{a, b} {
		m, err := iw.Finish()
		if err != nil {
			t.Fatal(err)
		}
		got := load(t, s, m)
		for i := range 600 {
			want := palette(3)
			want[8], want[9] = byte(i), byte(i>>8)
			if n == 0 && i >= 7 && i < 12 {
				clear(want)
			}
			if !bytes.Equal(got[i*pack.PageSize:(i+1)*pack.PageSize], want) {
				t.Fatalf("image %d page %d is not the last write", n, i)
			}
		}
	}
}

func TestSecondCaptureStoresOnlyWhatChanged(t *testing.T) {
	ram := ramgen.New(24<<20+100, 3)
	s := newShelf()
	first, st1 := save(t, s, ram, ram.Bytes(), nil)
	if st1.PagesZero != uint64(ram.ZeroPages()) {
		t.Errorf("%d zero pages, want %d", st1.PagesZero, ram.ZeroPages())
	}
	parent := open(t, s, first)
	same, st2 := save(t, s, ram, ram.Bytes(), parent)
	if st2.PagesNew != 0 || st2.StoredBytes != 0 {
		t.Errorf("nothing changed, yet %+v", st2)
	}
	if d := cmp.Diff(first, same); d != "" {
		t.Error(d)
	}
	next := ram.Mutate(0.07, 4)
	m, st3 := save(t, s, next, next.Bytes(), parent)
	if want := uint64(0.07 * float64(pack.PagesOf(uint64(ram.Bytes())))); st3.PagesNew > want {
		t.Errorf("%d new pages for %d changed ones", st3.PagesNew, want)
	}
	want := make([]byte, next.Bytes())
	if _, err := next.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(load(t, s, m), want) {
		t.Error("second capture differs from its image")
	}
}

func TestHolesAreSkippedAndFilesRestored(t *testing.T) {
	ram := ramgen.New(9<<20+1234, 5)
	want := make([]byte, ram.Bytes())
	if _, err := ram.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ram")
	if err := ram.WriteFile(path, true); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, r := range map[string]io.ReaderAt{"file": f, "section": io.NewSectionReader(f, 0, ram.Bytes()), "reader": bytes.NewReader(want)} {
		s := newShelf()
		w := packer.NewWriter(t.Context(), s, packer.WriterOptions{Workers: 1})
		iw := w.Image(uint64(ram.Bytes()), nil)
		var told int64
		if err := iw.ReadFrom(t.Context(), r, func(n int64) { told += n }); err != nil {
			t.Fatal(err)
		}
		m, _ := finish(t, w, iw)
		if told != ram.Bytes() {
			t.Errorf("%s: progress sums to %d of %d bytes", name, told, ram.Bytes())
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := out.Truncate(ram.Bytes()); err != nil {
			t.Fatal(err)
		}
		told = 0
		if err := open(t, s, m).WriteTo(t.Context(), out, 2, func(n int64) { told += n }); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || told != ram.Bytes() {
			t.Errorf("%s: restored file differs, or progress %d is not %d", name, told, ram.Bytes())
		}
	}
}

func TestProgressCountsAShortLastPage(t *testing.T) {
	s := newShelf()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	const size = 2*pack.PageSize + 100
	iw := w.Image(size, nil)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(bytes.Repeat([]byte("x"), size)), nil); err != nil {
		t.Fatal(err)
	}
	m, _ := finish(t, w, iw)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var told int64
	if err := open(t, s, m).WriteTo(t.Context(), out, 0, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	if told != size {
		t.Errorf("progress sums to %d of %d bytes", told, size)
	}
}

// TestEachFrameGivesEveryNonZeroPageOnce: in order within a call, no zero page.
func TestEachFrameGivesEveryNonZeroPageOnce(t *testing.T) {
	ram := ramgen.New(9<<20+1234, 5)
	want := make([]byte, ram.Bytes())
	if _, err := ram.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	s := newShelf()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	iw := w.Image(uint64(ram.Bytes()), nil)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(want), nil); err != nil {
		t.Fatal(err)
	}
	m, _ := finish(t, w, iw)
	got := make([]byte, ram.Bytes())
	zero := make([]byte, pack.PageSize)
	var mu sync.Mutex
	err := open(t, s, m).EachFrame(t.Context(), 3, func(worker int, parts []pack.Part) error {
		mu.Lock()
		defer mu.Unlock()
		end := int64(0)
		for _, p := range parts {
			if p.Offset < end || worker < 0 || worker > 2 {
				t.Errorf("worker %d: part at %d after %d", worker, p.Offset, end)
			}
			end = p.Offset + int64(len(p.Data))
			for at := 0; at < len(p.Data); at += pack.PageSize {
				page := p.Data[at:min(at+pack.PageSize, len(p.Data))]
				if bytes.Equal(page, zero[:len(page)]) || !bytes.Equal(got[p.Offset+int64(at):][:len(page)], zero[:len(page)]) {
					t.Errorf("the page at %d is zero, or came twice", p.Offset+int64(at))
				}
			}
			copy(got[p.Offset:end], p.Data)
		}
		return nil
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the parts do not make up the image (%v)", err)
	}
}

func TestReadFromOverEarlierWritesClearsHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hole")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := packer.NewWriter(t.Context(), newShelf(), packer.WriterOptions{})
	iw := w.Image(1<<20, nil)
	if _, err := iw.WriteAt(palette(1), 0); err != nil {
		t.Fatal(err)
	}
	if err := iw.ReadFrom(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	if m, _ := finish(t, w, iw); len(m.Runs) != 0 {
		t.Errorf("runs %v in an image of zeros", m.Runs)
	}
}

func TestPacksStayBelowTheirLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("short: writes 80 MiB of random pages")
	}
	noise := noiseReader{}
	s := newShelf()
	m, st := save(t, s, noise, 80<<20, nil)
	if len(s.packs) != 2 || st.StoredBytes != int64(s.bytes()) {
		t.Errorf("%d packs of %d bytes, stats %+v", len(s.packs), s.bytes(), st)
	}
	for d, b := range s.packs {
		if len(b) > pack.MaxPackBytes {
			t.Errorf("pack %s has %d bytes", d, len(b))
		}
	}
	want := make([]byte, 80<<20)
	if _, err := noise.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(load(t, s, m), want) {
		t.Error("image differs")
	}
}

// noiseReader is incompressible without end.
type noiseReader struct{}

func (noiseReader) ReadAt(p []byte, off int64) (int, error) {
	x := uint64(0)
	for i := range p {
		at := uint64(off) + uint64(i)
		if i == 0 || at%8 == 0 {
			x = (at/8 + 1) * 0x9E3779B97F4A7C15
			x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
			x = (x ^ x>>27) * 0x94D049BB133111EB
			x ^= x >> 31
		}
		p[i] = byte(x >> (at % 8 * 8))
	}
	return len(p), nil
}

func TestFailuresEndTheWriterAndRemoveItsPack(t *testing.T) {
	ram := ramgen.New(8<<20, 1)
	for _, failAt := range []int{1, 2, 3, 4} {
		s := newShelf()
		s.failAt = failAt
		w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
		iw := w.Image(uint64(ram.Bytes()), nil)
		_ = iw.ReadFrom(t.Context(), ram, nil) // may or may not have met it
		if _, err := w.Flush(t.Context()); !errors.Is(err, errShelf) {
			t.Errorf("write %d fails: Flush gives %v", failAt, err)
		}
		if _, err := iw.Finish(); err == nil {
			t.Errorf("write %d fails: Finish gives a map", failAt)
		}
		w.Abort()
		if s.open != 0 || len(s.packs) != 0 {
			t.Errorf("write %d fails: %d packs open, %d kept", failAt, s.open, len(s.packs))
		}
	}
}

func TestShortSourceAndCancelAreErrors(t *testing.T) {
	w := packer.NewWriter(t.Context(), newShelf(), packer.WriterOptions{})
	err := w.Image(1<<20, nil).ReadFrom(t.Context(), bytes.NewReader(palette(1)), nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short source: %v", err)
	}
	w.Abort()
	w = packer.NewWriter(t.Context(), newShelf(), packer.WriterOptions{})
	defer w.Abort()
	iw := w.Image(1<<20, nil)
	for _, bad := range []struct {
		off  int64
		size int
	}{{1, pack.PageSize}, {0, 100}, {-pack.PageSize, pack.PageSize}, {1 << 20, pack.PageSize}} {
		if _, err := iw.WriteAt(make([]byte, bad.size), bad.off); err == nil {
			t.Errorf("WriteAt of %d bytes at %d succeeds", bad.size, bad.off)
		}
	}
}

func TestZstdAcceptsAPack(t *testing.T) {
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("zstd is not installed")
	}
	ram := ramgen.New(4<<20, 9)
	s := newShelf()
	save(t, s, ram, ram.Bytes(), nil)
	for d, b := range s.packs {
		path := filepath.Join(t.TempDir(), d.Encoded())
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), tool, "-t", path).CombinedOutput(); err != nil {
			t.Errorf("zstd -t: %v\n%s", err, out)
		}
	}
}

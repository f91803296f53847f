package ramgen

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestImageLooksLikeRAM(t *testing.T) {
	im := New(64<<20, 1)
	if share := float64(im.ZeroPages()) / float64(len(im.kinds)); share < 0.57 || share > 0.63 {
		t.Errorf("share of zero pages %.3f, want about 0.6", share)
	}
	distinct := map[string]int{}
	page := make([]byte, PageSize)
	for i := range len(im.kinds) {
		im.Page(page, int64(i))
		distinct[string(page)]++
	}
	most := len(im.kinds) - im.ZeroPages()
	if got := len(distinct); got < most*8/10 || got > most*97/100 {
		t.Errorf("%d distinct pages of %d that are not zero: some must repeat", got, most)
	}
}

// What docs/benchmarks.md says of the generated RAM.
func TestPagesCompressLikeThoseOfGuests(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	ratio := func(raw []byte) float64 { return float64(len(enc.EncodeAll(raw, nil))) / float64(len(raw)) }
	for _, c := range []struct {
		kind     kind
		from, to float64
	}{{text, 0.20, 0.27}, {code, 0.36, 0.44}, {pointers, 0.15, 0.25}, {records, 0.10, 0.15}, {noise, 0.99, 1.01}} {
		raw := make([]byte, 4<<20)
		for p := 0; p < len(raw); p += PageSize {
			linux.fill(c.kind, raw[p:p+PageSize], &splitmix{uint64(p) * 0x9E3779B97F4A7C15})
		}
		if r := ratio(raw); r < c.from || r > c.to {
			t.Errorf("pages of kind %d compress to %.3f, want %.2f to %.2f", c.kind, r, c.from, c.to)
		}
	}
	for name, c := range map[string]struct {
		im       *Image
		from, to float64
	}{"guests": {New(64<<20, 3), 0.30, 0.36}, "hard": {NewHard(64<<20, 3), 0.48, 0.54}} {
		var raw []byte
		page := make([]byte, PageSize)
		for p, k := range c.im.kinds {
			if k != zero {
				c.im.Page(page, int64(p))
				raw = append(raw, page...)
			}
		}
		if r := ratio(raw); r < c.from || r > c.to {
			t.Errorf("%s: what is not zero compresses to %.3f, want %.2f to %.2f", name, r, c.from, c.to)
		}
	}
}

func TestMutateChangesTheFraction(t *testing.T) {
	im := New(32<<20, 1)
	next := im.Mutate(0.07, 2)
	a, b := make([]byte, PageSize), make([]byte, PageSize)
	changed := 0
	for i := range len(im.kinds) {
		im.Page(a, int64(i))
		next.Page(b, int64(i))
		if !bytes.Equal(a, b) {
			changed++
		}
	}
	if want := int(0.07 * float64(len(im.kinds))); changed != want {
		t.Errorf("%d pages changed, want %d", changed, want)
	}
}

func TestSiblingsShareTheirImage(t *testing.T) {
	im := New(64<<20, 1)
	next := im.Sibling(2)
	page := make([]byte, PageSize)
	first := map[string]bool{}
	for i := range im.kinds {
		im.Page(page, int64(i))
		first[string(page)] = true
	}
	same, shared, used := 0, 0, 0
	for i, k := range next.kinds {
		if k == zero {
			continue
		}
		used++
		next.Page(page, int64(i))
		if first[string(page)] {
			shared++
		}
		was := make([]byte, PageSize)
		im.Page(was, int64(i))
		if bytes.Equal(was, page) {
			same++
		}
	}
	if share := float64(shared) / float64(used); share < 0.55 || share > 0.70 {
		t.Errorf("%.3f of the sibling's pages stand in the first image, want about 0.6", share)
	}
	if same*20 > used {
		t.Errorf("%d of %d pages stand at the same address: siblings have their pages elsewhere", same, used)
	}
	if got, want := next.ZeroPages(), New(64<<20, 2).ZeroPages(); got != want {
		t.Errorf("%d zero pages, a guest of its own has %d", got, want)
	}
}

func TestFilesEqualTheImage(t *testing.T) {
	im := New(3<<20+100, 7)
	want := make([]byte, im.Bytes())
	if _, err := im.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	for _, sparse := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "ram")
		if err := im.WriteFile(path, sparse); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("sparse=%v: file differs from image", sparse)
		}
	}
}

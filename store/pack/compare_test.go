package pack_test

import (
	"bytes"
	"testing"

	"github.com/cocoonv2/cocoon/store/pack"
	"pgregory.net/rapid"
)

// TestCompareCountsWhatDiffers holds Compare against a byte-wise comparison of
// two images of any length.
func TestCompareCountsWhatDiffers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newShelf()
		draw := func(name string) ([]byte, *pack.Image) {
			b := make([]byte, rapid.IntRange(0, 40*pack.PageSize).Draw(rt, name+" bytes"))
			for at := 0; at < len(b); at += pack.PageSize {
				copy(b[at:], palette(byte(rapid.IntRange(0, 3).Draw(rt, "colour"))))
			}
			m, _ := save(t, s, bytes.NewReader(b), int64(len(b)), nil)
			return b, open(t, s, m)
		}
		a, ia := draw("a")
		b, ib := draw("b")
		got, err := pack.Compare(t.Context(), ia, ib)
		if err != nil {
			rt.Fatal(err)
		}
		want := pack.Comparison{Pages: pack.PagesOf(uint64(max(len(a), len(b))))}
		for page := range want.Pages {
			if !bytes.Equal(pageAt(a, page), pageAt(b, page)) {
				want.Changed++
			}
		}
		if got != want {
			rt.Fatalf("got %+v, want %+v", got, want)
		}
		if same, err := pack.Same(t.Context(), ia, ib); err != nil || same != (want.Changed == 0 && len(a) == len(b)) {
			rt.Fatalf("Same: %v, %v; %+v of %d and %d bytes", same, err, want, len(a), len(b))
		}
		if one, _ := pack.Compare(t.Context(), ia, nil); one.Pages != pack.PagesOf(uint64(len(a))) {
			rt.Fatalf("against nothing: %+v of %d bytes", one, len(a))
		}
	})
}

// pageAt is a page of b padded with zeros.
func pageAt(b []byte, page uint64) []byte {
	out := make([]byte, pack.PageSize)
	if at := page * pack.PageSize; at < uint64(len(b)) {
		copy(out, b[at:])
	}
	return out
}

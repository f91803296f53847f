package pack_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

func randomPage(rng *rand.Rand) []byte {
	p := make([]byte, pack.PageSize)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// TestDensePagesStandApart: in frames that are stored raw, while the others
// hold none of them; and all come back.
func TestDensePagesStandApart(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var want []byte
	for i := range 3 * pack.FramePages {
		if i%3 == 0 {
			want = append(want, randomPage(rng)...)
			continue
		}
		p := bytes.Repeat([]byte{'a'}, pack.PageSize)
		p[rng.IntN(pack.PageSize)], p[rng.IntN(pack.PageSize)] = byte(i), byte(i>>8)
		want = append(want, p...)
	}
	s := newShelf()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	iw := w.Image(uint64(len(want)), nil)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(want), nil); err != nil {
		t.Fatal(err)
	}
	m, st := finish(t, w, iw)
	if raw := int64(pack.FramePages * pack.PageSize); st.StoredBytes < raw || st.StoredBytes > raw+raw/10 {
		t.Errorf("%d bytes are stored, of which %d do not compress", st.StoredBytes, raw)
	}
	for i, f := range open(t, s, m).Opened()[0].Index.Frames {
		if rawLength := int(f.Pages) * pack.PageSize; int(f.Bytes) > rawLength/10 && int(f.Bytes) < rawLength {
			t.Errorf("frame %d: %d pages in %d bytes: of both classes", i, f.Pages, f.Bytes)
		}
	}
	if !bytes.Equal(load(t, s, m), want) {
		t.Error("the image came back changed")
	}
}

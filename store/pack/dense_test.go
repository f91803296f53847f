package pack

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"testing"
)

func randomPage(rng *rand.Rand) []byte {
	p := make([]byte, PageSize)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// TestClassesOfPages: what will not compress is told from what will.
func TestClassesOfPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for range 1000 {
		if p := randomPage(rng); classify(p) != dense {
			wrong++
		} else if text := []byte(base64.StdEncoding.EncodeToString(p)); classify(text[:PageSize]) != plain {
			wrong++
		}
	}
	if wrong > 2 {
		t.Errorf("%d of 1000 random pages, or the same in base64, were judged wrongly", wrong)
	}
	code := self[len(self)/4/PageSize*PageSize:][:PageSize]
	counter := make([]byte, PageSize) // columns: half of it random, half zero
	for i := range counter {
		if i%16 < 8 {
			counter[i] = byte(rng.Uint32())
		}
	}
	for name, p := range map[string][]byte{"code": code, "half random": counter, "zero": make([]byte, PageSize)} {
		if classify(p) != plain {
			t.Errorf("%s is taken for what does not compress", name)
		}
	}
}

// TestDensePagesStandApart: in frames that are stored raw, while the others
// hold none of them; and all come back.
func TestDensePagesStandApart(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var want []byte
	for i := range 3 * FramePages {
		if i%3 == 0 {
			want = append(want, randomPage(rng)...)
			continue
		}
		p := bytes.Repeat([]byte{'a'}, PageSize)
		p[rng.IntN(PageSize)], p[rng.IntN(PageSize)] = byte(i), byte(i>>8)
		want = append(want, p...)
	}
	s := newShelf()
	w := NewWriter(t.Context(), s, WriterOptions{})
	iw := w.Image(uint64(len(want)), nil)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(want), nil); err != nil {
		t.Fatal(err)
	}
	m, st := finish(t, w, iw)
	if raw := int64(FramePages * PageSize); st.StoredBytes < raw || st.StoredBytes > raw+raw/10 {
		t.Errorf("%d bytes are stored, of which %d do not compress", st.StoredBytes, raw)
	}
	for i, f := range open(t, s, m).packs[0].index.Frames {
		if rawLength := int(f.Pages) * PageSize; int(f.Bytes) > rawLength/10 && int(f.Bytes) < rawLength {
			t.Errorf("frame %d: %d pages in %d bytes: of both classes", i, f.Pages, f.Bytes)
		}
	}
	if !bytes.Equal(load(t, s, m), want) {
		t.Error("the image came back changed")
	}
}

package pack_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// TestAPackIsHeldToItsIndex: none comes in whose index names a page that it does
// not hold, though all sums in it are right.
func TestAPackIsHeldToItsIndex(t *testing.T) {
	s := newShelf()
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300*pack.PageSize)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	m, _ := save(t, s, bytes.NewReader(noise), int64(len(noise)), nil)
	honest := s.packs[m.Packs[0]]
	check := func(ctx context.Context, b []byte) error {
		return pack.CheckTruth(ctx, bytes.NewReader(b), int64(len(b)))
	}
	for name, b := range map[string][]byte{"a pack": honest, "no pack": noise[:5000], "nothing": nil} {
		if err := check(t.Context(), b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	ix, err := pack.ReadIndex(bytes.NewReader(honest), int64(len(honest)), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := ix.Frames[len(ix.Frames)-1]
	data := last.Offset + int64(last.Bytes)
	ix.Hashes[299] = pack.Sum([]byte("a page that somebody else will have"))
	if err := check(t.Context(), append(bytes.Clone(honest[:data]), ix.Encode(data)...)); !errors.Is(err, failure.Damaged) {
		t.Errorf("a lying index: %v", err)
	}
	torn := bytes.Clone(honest)
	torn[1000] ^= 1
	if err := check(t.Context(), torn); !errors.Is(err, failure.Damaged) {
		t.Errorf("a torn frame: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := check(ctx, honest); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

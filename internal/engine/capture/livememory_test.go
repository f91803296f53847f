package capture

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// A full pass and random later rounds, over two ranges with a gap, end as what a
// plain array holds after the same writes; pages that became zero included.
func TestLaterRoundsEndInTheMaps(t *testing.T) {
	ctx := t.Context()
	st, err := store.Open(ctx, t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := st.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	in, err := st.Ingest(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	src, firsts := &source{store: st, ingest: in}, 0
	m := &liveMemory{src: src, w: in.Pages(ctx), dir: in.Dir(), firstDone: func() error { firsts++; return nil }}
	ranges := []chsnap.Range{{GPA: 0, Length: 3 << 20}, {GPA: 4 << 30, Length: 5<<20 + 3*pack.PageSize}}
	if err := m.Begin(ctx, ranges); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	want := make([][]byte, len(ranges))
	write := func(round, i int, off, n uint64) {
		p := want[i][off : off+n]
		for at := range p {
			p[at] = 0
		}
		if rnd.IntN(3) > 0 {
			p[rnd.IntN(len(p))] = byte(rnd.IntN(256))
		}
		if err := m.Page(round, ranges[i].GPA+off, bytes.Clone(p)); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range ranges {
		want[i] = make([]byte, r.Length)
		for off := uint64(0); off < r.Length; off += 1 << 20 {
			write(1, i, off, min(1<<20, r.Length-off))
		}
	}
	if firsts != 1 {
		t.Errorf("the end of the first pass was told %d times", firsts)
	}
	for round := 2; round < 6; round++ {
		for range 200 {
			i := rnd.IntN(2)
			pages := ranges[i].Length / pack.PageSize
			first := rnd.Uint64N(pages)
			write(round, i, first*pack.PageSize, min(1+rnd.Uint64N(3), pages-first)*pack.PageSize)
		}
	}
	if err := m.pack(ctx, src, m.w); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	maps, err := m.maps(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	sn := &store.Snapshot{Spec: store.Spec{Memory: maps}}
	for i, r := range ranges {
		im, err := contents.Of(st, sn).Memory(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(im, 0, int64(r.Length)))
		if err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("RAM at %#x is not what came last (%v)", r.GPA, err)
		}
		im.Close()
	}
}

package pack_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// move takes the live pages of these packs of a shelf into new ones and gives the
// maps as they are then. The old packs are removed.
func move(t testing.TB, s *shelf, old []digest.Digest, maps []*pack.Map, family ...packer.Known) []*pack.Map {
	t.Helper()
	live := map[digest.Digest]*pack.Live{}
	for _, m := range maps {
		m.MarkLive(func(d digest.Digest) *pack.Live {
			if live[d] == nil {
				live[d] = &pack.Live{}
			}
			return live[d]
		})
	}
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{Level: pack.Better, KeepFrames: true, Family: family})
	mv, err := packer.NewMove(w, old, live)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range old {
		k, err := packer.OpenKnown(t.Context(), d, s)
		if err == nil {
			err = mv.Take(k.File, d, k.Index, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := mv.Finish(); err != nil {
		t.Fatal(err)
	}
	var out []*pack.Map
	named := map[digest.Digest]bool{} // a pack that was written again as it was has its old name
	for _, m := range maps {
		moved, err := mv.Rewrite(m)
		if err == nil {
			err = moved.Check()
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, moved)
		for _, d := range moved.Packs {
			named[d] = true
		}
	}
	for _, d := range old {
		if !named[d] {
			delete(s.packs, d)
		}
	}
	return out
}

// TestMovedPagesReadTheSame: whatever generations share, every image reads the
// same when some packs were given up, and what is stored then is live.
func TestMovedPagesReadTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newShelf()
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		pages := rapid.IntRange(1, 900).Draw(rt, "pages")
		model := make([]byte, pages*pack.PageSize)
		var maps []*pack.Map
		var want [][]byte
		var parent *pack.Image
		for generation := range rapid.IntRange(1, 4).Draw(rt, "generations") {
			for range rapid.IntRange(1, pages).Draw(rt, "changes") {
				copy(model[rnd.IntN(pages)*pack.PageSize:], palette(byte(rnd.IntN(200)*(generation+1))))
			}
			m, _ := save(t, s, bytes.NewReader(model), int64(len(model)), parent)
			parent = open(t, s, m)
			maps, want = append(maps, m), append(want, bytes.Clone(model))
		}
		keep := rapid.IntRange(0, len(maps)-1).Draw(rt, "kept")
		maps, want = maps[keep:], want[keep:]
		var old []digest.Digest
		for d := range s.packs {
			if rapid.Bool().Draw(rt, "moved") {
				old = append(old, d)
			}
		}
		if len(old) == 0 {
			return
		}
		live := map[digest.Digest]*pack.Live{}
		for _, m := range maps {
			m.MarkLive(func(d digest.Digest) *pack.Live {
				if live[d] == nil {
					live[d] = &pack.Live{}
				}
				return live[d]
			})
		}
		for i := 0; i < len(old); i++ { // a pack that no map names has nothing to move
			if live[old[i]] == nil {
				delete(s.packs, old[i])
				old = append(old[:i], old[i+1:]...)
				i--
			}
		}
		for i, m := range move(t, s, old, maps) {
			if !bytes.Equal(load(t, s, m), want[i]) {
				rt.Fatalf("image %d differs after the move", i)
			}
		}
	})
}

// TestMovingReusesOnlyWhatIsSound: a page that another pack has is not stored
// again, unless it is damaged there.
func TestMovingReusesOnlyWhatIsSound(t *testing.T) {
	for _, harm := range []bool{false, true} {
		s := newShelf()
		image := bytes.Join([][]byte{palette(3), palette(4), palette(5)}, nil)
		a, _ := save(t, s, bytes.NewReader(image), int64(len(image)), nil)
		more := append(bytes.Clone(image), palette(6)...)
		b, _ := save(t, s, bytes.NewReader(more), int64(len(more)), nil)
		other := b.Packs[0]
		if harm {
			s.packs[other][40] ^= 1
		}
		k, err := packer.OpenKnown(t.Context(), other, s)
		if err != nil {
			t.Fatal(err)
		}
		want := map[pack.Hash]bool{}
		for i := range 3 {
			want[pack.Sum(image[i*pack.PageSize:][:pack.PageSize])] = true
		}
		if k.Only, err = pack.Sound(k.File, k.Index, want); err != nil {
			t.Fatal(err)
		}
		moved := move(t, s, a.Packs, []*pack.Map{a}, k)
		if !bytes.Equal(load(t, s, moved[0]), image) {
			t.Error("the image differs")
		}
		if reused := len(s.packs) == 1; reused == harm {
			t.Errorf("damaged %v: reused %v, %d packs", harm, reused, len(s.packs))
		}
	}
}

// TestALostPageThatNobodyNamesIsLeftBehind: it is no reason not to move the rest;
// one that is live is damage.
func TestALostPageThatNobodyNamesIsLeftBehind(t *testing.T) {
	s := newShelf()
	rnd := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 300*pack.PageSize) // two frames, raw
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	m, _ := save(t, s, bytes.NewReader(noise), int64(len(noise)), nil)
	d := m.Packs[0]
	s.packs[d][10*pack.PageSize] ^= 1 // within page 9 of the first frame
	k, err := packer.OpenKnown(t.Context(), d, s)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := pack.Damages(k.File, k.Index)
	if err != nil || len(lost) != 1 {
		t.Fatalf("lost %d pages, %v", len(lost), err)
	}
	live := &pack.Live{}
	for i := range uint32(300) {
		live.Add(i, 1)
	}
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{KeepFrames: true})
	defer w.Abort()
	mv, err := packer.NewMove(w, []digest.Digest{d}, map[digest.Digest]*pack.Live{d: live})
	if err != nil {
		t.Fatal(err)
	}
	if err := mv.Take(k.File, d, k.Index, nil); !errors.Is(err, failure.Damaged) {
		t.Errorf("a lost page was moved: %v", err)
	}
	var at uint64
	for i, h := range k.Index.Hashes {
		if h == lost[0] {
			at = uint64(i)
		}
	}
	without := &pack.Map{Bytes: m.Bytes, Packs: m.Packs, Runs: []pack.Run{{First: 0, Pages: at}, {First: at + 1, Pages: 299 - at, PackPage: uint32(at) + 1}}}
	moved := move(t, s, []digest.Digest{d}, []*pack.Map{without})
	clear(noise[at*pack.PageSize:][:pack.PageSize])
	if !bytes.Equal(load(t, s, moved[0]), noise) {
		t.Error("the image differs")
	}
}

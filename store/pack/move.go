package pack

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sort"

	"github.com/opencontainers/go-digest"
)

// Moving takes the pages of packs that are still needed into new packs, so that
// the old ones, of which little is needed, can go: [Live] is what is needed of
// one pack, a [Move] stores it again, and [Move.Rewrite] gives each page map with
// its pages where they are then.

// Live is the set of pages of one pack that page maps name.
type Live struct {
	words []uint64
	count int
}

// add puts the n pages from first on into the set.
func (l *Live) add(first uint32, n uint64) {
	if words := int(uint64(first)+n+63) / 64; words > len(l.words) {
		l.words = append(l.words, make([]uint64, words-len(l.words))...)
	}
	for p := uint64(first); p < uint64(first)+n; p++ {
		if bit := uint64(1) << (p % 64); l.words[p/64]&bit == 0 {
			l.words[p/64] |= bit
			l.count++
		}
	}
}

// Has says whether a page is in the set.
func (l *Live) Has(page uint32) bool {
	return int(page/64) < len(l.words) && l.words[page/64]&(1<<(page%64)) != 0
}

// Count is the number of pages in the set.
func (l *Live) Count() int { return l.count }

// fits refuses a set with pages that a pack does not have.
func (l *Live) fits(ix *Index) error {
	for i := len(l.words) - 1; i >= 0; i-- {
		if l.words[i] == 0 {
			continue
		}
		if last := i*64 + bits.Len64(l.words[i]) - 1; last >= len(ix.Hashes) {
			return damaged("page maps name page %d of a pack that has %d", last, len(ix.Hashes))
		}
		return nil
	}
	return nil
}

// MarkLive puts what the map names into the sets of its packs.
func (m *Map) MarkLive(of func(digest.Digest) *Live) {
	for _, r := range m.Runs {
		of(m.Packs[r.Pack]).add(r.PackPage, r.Pages)
	}
}

// LiveBytes says what the pages of the set may take when they are stored alone:
// expected is their part of the frames that hold them, most is those frames
// whole; hashes are counted. failure.Damaged when the pack has no such pages.
func (ix *Index) LiveBytes(l *Live) (expected, most int64, err error) {
	if err := l.fits(ix); err != nil {
		return 0, 0, err
	}
	for _, f := range ix.Frames {
		n := 0
		for p := f.First; p < f.First+f.Pages; p++ {
			if l.Has(p) {
				n++
			}
		}
		if n > 0 {
			expected += int64(f.Bytes) * int64(n) / int64(f.Pages)
			most += int64(f.Bytes)
		}
	}
	hashes := int64(l.count * hashBytes)
	return expected + hashes, most + hashes, nil
}

// Move stores the live pages of packs again, as if they were one image: the
// pages of the first pack, then those of the second, and so on.
type Move struct {
	image  *ImageWriter
	mender *mender
	packs  map[digest.Digest]*movedPack
	buf    []byte
	moved  *Map // of the image, once the Writer was flushed
}

// movedPack is where the pages of a pack stand in the image.
type movedPack struct {
	live  *Live
	first uint64
	rank  []uint32 // live pages before each word of live
}

// NewMove begins an image of w for the live pages of these packs.
func NewMove(w *Writer, order []digest.Digest, live map[digest.Digest]*Live) (*Move, error) {
	m, err := newMender(nil)
	if err != nil {
		return nil, err
	}
	mv := &Move{mender: m, packs: map[digest.Digest]*movedPack{}}
	var pages uint64
	for _, d := range order {
		p := &movedPack{live: live[d], first: pages}
		var before uint32
		for _, word := range p.live.words {
			p.rank = append(p.rank, before)
			before += uint32(bits.OnesCount64(word))
		}
		mv.packs[d] = p
		pages += uint64(p.live.count)
	}
	mv.image = w.Image(pages*PageSize, nil)
	return mv, nil
}

// at is the number in the image of a page that is live.
func (p *movedPack) at(page uint32) uint64 {
	below := p.live.words[page/64] & (1<<(page%64) - 1)
	return p.first + uint64(p.rank[page/64]) + uint64(bits.OnesCount64(below))
}

// Take reads the live pages of one of the packs, each compared with its hash.
// copyOf, if not nil, gives a page that the pack has lost, by its hash, or false;
// without it a lost page is failure.Damaged.
func (mv *Move) Take(r io.ReaderAt, d digest.Digest, ix *Index, copyOf func(Hash, []byte) bool) error {
	p := mv.packs[d]
	if err := p.live.fits(ix); err != nil {
		return err
	}
	mv.mender.r = r
	for i, f := range ix.Frames {
		mv.buf = mv.buf[:0]
		var first uint32
		for page := f.First; page < f.First+f.Pages; page++ {
			if !p.live.Has(page) {
				continue
			}
			if len(mv.buf) == 0 {
				first = page
				mv.mender.read(ix, i)
			}
			raw := mv.mender.raw[(page-f.First)*PageSize:][:PageSize]
			if !mv.mender.sound[page-f.First] && (copyOf == nil || !copyOf(ix.Hashes[page], raw) || Sum(raw) != ix.Hashes[page]) {
				return damaged("pack %s: page %d is damaged", d, page)
			}
			mv.buf = append(mv.buf, raw...)
		}
		if len(mv.buf) == 0 {
			continue
		}
		if _, err := mv.image.WriteAt(mv.buf, int64(p.at(first)*PageSize)); err != nil {
			return err
		}
	}
	return nil
}

// Finish follows Writer.Flush: from here on Rewrite can be asked.
func (mv *Move) Finish() (err error) {
	mv.moved, err = mv.image.Finish()
	return err
}

// Rewrite gives the same image as a map with its pages where they are now; m is
// left as it is.
func (mv *Move) Rewrite(m *Map) (*Map, error) {
	out := &Map{Bytes: m.Bytes}
	for _, r := range m.Runs {
		d := m.Packs[r.Pack]
		p, moved := mv.packs[d]
		if !moved {
			r.Pack = uint32(out.number(d))
			out.add(r)
			continue
		}
		for i := uint64(0); i < r.Pages; {
			page := r.PackPage + uint32(i)
			if !p.live.Has(page) {
				return nil, fmt.Errorf("rewrite page map: page %d of pack %s was not moved", page, d)
			}
			i += mv.addMoved(out, r.First+i, r.Pages-i, p, page)
		}
	}
	return out, nil
}

// addMoved adds what stands in one run of the image of moved pages, or one page
// that turned out to be zero, and says how many pages that was. Neighbours in the
// old pack that are live are neighbours in the image.
func (mv *Move) addMoved(out *Map, first, pages uint64, p *movedPack, page uint32) uint64 {
	at := p.at(page)
	runs := mv.moved.Runs
	i := sort.Search(len(runs), func(i int) bool { return runs[i].First+runs[i].Pages > at })
	if i == len(runs) || runs[i].First > at {
		return 1
	}
	r, skip := runs[i], at-runs[i].First
	n := min(pages, r.Pages-skip)
	for k := uint64(1); k < n; k++ { // what is between live pages of the pack is not in the image
		if !p.live.Has(page + uint32(k)) {
			n = k
		}
	}
	out.add(Run{First: first, Pages: n, Pack: uint32(out.number(mv.moved.Packs[r.Pack])), PackPage: r.PackPage + uint32(skip)})
	return n
}

// Sound gives those of the wanted pages of a pack that are there and right: only
// they may stand in for the same page elsewhere.
func Sound(r io.ReaderAt, ix *Index, want map[Hash]bool) (*Live, error) {
	sound := &Live{}
	m, err := newMender(r)
	if err != nil {
		return nil, err
	}
	for i, f := range ix.Frames {
		hashes := ix.Hashes[f.First : f.First+f.Pages]
		if !slices.ContainsFunc(hashes, func(h Hash) bool { return want[h] }) {
			continue
		}
		m.read(ix, i)
		for p, ok := range m.sound {
			if ok && want[hashes[p]] {
				sound.add(f.First+uint32(p), 1)
			}
		}
	}
	return sound, nil
}

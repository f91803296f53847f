package pack

import (
	"io"
	"math/bits"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Live is the set of pages of one pack that page maps name.
type Live struct {
	words []uint64
	count int
	rank  []uint32 // pages before each word, once somebody asked
}

// Add puts the n pages from first on into the set.
func (l *Live) Add(first uint32, n uint64) {
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

// Below counts the pages of the set before one that is in it. No page may be added
// afterwards.
func (l *Live) Below(page uint32) uint64 {
	if l.rank == nil {
		var before uint32
		for _, word := range l.words {
			l.rank = append(l.rank, before)
			before += uint32(bits.OnesCount64(word))
		}
	}
	below := l.words[page/64] & (1<<(page%64) - 1)
	return uint64(l.rank[page/64]) + uint64(bits.OnesCount64(below))
}

// Fits refuses a set with pages that a pack does not have.
func (l *Live) Fits(ix *Index) error {
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
		of(m.Packs[r.Pack]).Add(r.PackPage, r.Pages)
	}
}

// LiveBytes says what the pages of the set may take when they are stored alone:
// expected is their part of the frames that hold them, most is those frames
// whole; hashes are counted. failure.Damaged when the pack has no such pages.
func (ix *Index) LiveBytes(l *Live) (expected, most int64, err error) {
	if err := l.Fits(ix); err != nil {
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

// Sound gives those of the wanted pages of a pack that are there and right: only
// they may stand in for the same page elsewhere.
func Sound(r io.ReaderAt, ix *Index, want map[Hash]bool) (*Live, error) {
	sound := &Live{}
	m, err := NewScan()
	if err != nil {
		return nil, err
	}
	for i, f := range ix.Frames {
		hashes := ix.Hashes[f.First : f.First+f.Pages]
		if !slices.ContainsFunc(hashes, func(h Hash) bool { return want[h] }) {
			continue
		}
		m.Read(r, ix, i)
		for p, ok := range m.Sound {
			if ok && want[hashes[p]] {
				sound.Add(f.First+uint32(p), 1)
			}
		}
	}
	return sound, nil
}

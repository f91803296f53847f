package pack

import (
	"encoding/binary"

	"github.com/opencontainers/go-digest"
)

// location says where a page's bytes are, in 48 bits:
//
//	0                                   a zero page
//	newPage | n                         page n of those this Writer stored
//	(pack number+1)<<20 | page of pack  a pack that existed before
type location uint64

const (
	newPage      location = 1 << 47
	locationMask          = 1<<48 - 1
	packPageBits          = 20
)

func storedAt(pack, page uint32) location {
	return location(pack+1)<<packPageBits | location(page)
}

func (l location) isNew() bool { return l&newPage != 0 }

// stored is the inverse of storedAt.
func (l location) stored() (pack, page uint32) {
	return uint32(l>>packPageBits) - 1, uint32(l & (maxPackPages - 1))
}

// pageTable finds a page by its hash among the packs of parents and the pages
// written so far. It is an open-addressed table of 8 bytes a slot: 16 bits of
// the hash and a location; the full hash is compared where it already is, in
// the pack's index or in fresh. With the hash itself that is below 40 bytes a
// page. Not for concurrent use.
type pageTable struct {
	slots []uint64
	used  int
	known []knownPack
	packs map[digest.Digest]uint32 // number in known
	fresh []*[FramePages]Hash      // hashes of new pages, by frame
}

type knownPack struct {
	digest digest.Digest
	index  *Index
}

func newPageTable() *pageTable {
	return &pageTable{slots: make([]uint64, 1<<10), packs: map[digest.Digest]uint32{}}
}

func (t *pageTable) hashAt(l location) *Hash {
	if l.isNew() {
		n := l &^ newPage
		return &t.fresh[n/FramePages][n%FramePages]
	}
	pack, page := l.stored()
	return &t.known[pack].index.Hashes[page]
}

// register adds an existing pack's pages and returns the pack's number.
func (t *pageTable) register(d digest.Digest, ix *Index) uint32 {
	if n, ok := t.packs[d]; ok {
		return n
	}
	n := uint32(len(t.known))
	t.packs[d] = n
	t.known = append(t.known, knownPack{d, ix})
	t.grow(len(ix.Hashes))
	for i := range ix.Hashes {
		if t.find(&ix.Hashes[i]) == 0 {
			t.insert(&ix.Hashes[i], storedAt(n, uint32(i)))
		}
	}
	return n
}

// find gives the location of a page with this hash, or 0.
func (t *pageTable) find(h *Hash) location {
	mask := uint64(len(t.slots) - 1)
	tag := uint64(binary.LittleEndian.Uint16(h[8:])) << 48
	for i := binary.LittleEndian.Uint64(h[:]) & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s == 0 {
			return 0
		}
		if s&^locationMask == tag && *t.hashAt(location(s & locationMask)) == *h {
			return location(s & locationMask)
		}
	}
}

// insert adds a page that find did not find.
func (t *pageTable) insert(h *Hash, l location) {
	t.grow(1)
	t.place(uint64(binary.LittleEndian.Uint16(h[8:]))<<48|uint64(l), h)
	t.used++
}

func (t *pageTable) place(slot uint64, h *Hash) {
	mask := uint64(len(t.slots) - 1)
	i := binary.LittleEndian.Uint64(h[:]) & mask
	for t.slots[i] != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = slot
}

// grow makes room for n more pages at a load of at most three quarters.
func (t *pageTable) grow(n int) {
	size := len(t.slots)
	for (t.used+n)*4 > size*3 {
		size *= 2
	}
	if size == len(t.slots) {
		return
	}
	old := t.slots
	t.slots = make([]uint64, size)
	for _, s := range old {
		if s != 0 {
			t.place(s, t.hashAt(location(s&locationMask)))
		}
	}
}

// placement is the location of every page of one image, 8 bytes a page in
// leaves of 2 MiB of image, so that a large sparse disk costs nothing.
type placement struct {
	leaves map[uint64]*leaf
	lastAt uint64
	last   *leaf
}

const leafPages = 512

type leaf [leafPages]location

func (p *placement) set(page uint64, l location) {
	at := page / leafPages
	if p.last == nil || p.lastAt != at {
		lf := p.leaves[at]
		if lf == nil {
			if l == 0 {
				return
			}
			if p.leaves == nil {
				p.leaves = map[uint64]*leaf{}
			}
			lf = new(leaf)
			p.leaves[at] = lf
		}
		p.last, p.lastAt = lf, at
	}
	p.last[page%leafPages] = l
}

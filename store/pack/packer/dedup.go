package packer

import (
	"encoding/binary"
	"math/bits"
	"sort"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// location says where a page's bytes are:
//
//	0            a zero page
//	newPage | n  page n of those this Writer stored
//	n + 1        page n of the packs that existed before, counted through all
//	             of them in the order in which they were registered
type location uint32

const (
	newPage       location = 1 << 31
	maxNewPages            = 1 << 31
	maxKnownPages          = 1<<31 - 1
)

func (l location) isNew() bool { return l&newPage != 0 }

// pageTable finds a page by its hash among the packs that existed before and
// the pages written so far. It is an open-addressed table of 5 bytes a slot:
// one byte of the hash and the location; the full hash is compared where it
// already is, in the pack's index or in fresh. With the hash itself that is at
// most 24 bytes a page, once the table is large. Not for concurrent use.
type pageTable struct {
	tags  []uint8 // 0: the slot is free
	at    []location
	used  int
	known []knownPack
	packs map[digest.Digest]int         // number in known
	key   keyring.ID                    // of the packs that may be reused
	last  int                           // number in known of the pack asked for last
	fresh []*[pack.FramePages]pack.Hash // hashes of new pages, by frame
}

// knownPack is a pack that existed before.
type knownPack struct {
	pack.Opened
	first uint32 // pages of the packs registered before it
}

// unknownPack is the number of a pack whose pages the table has no numbers for.
const unknownPack = -1

const (
	firstSlots = 1 << 10
	// Tables of up to slowSlots slots double, larger ones grow by a quarter: so
	// they are never filled by less than five eighths.
	slowSlots = 1 << 18
)

func newPageTable() *pageTable {
	return &pageTable{tags: make([]uint8, firstSlots), at: make([]location, firstSlots), packs: map[digest.Digest]int{}}
}

func (t *pageTable) hashAt(l location) *pack.Hash {
	if l.isNew() {
		n := l &^ newPage
		return &t.fresh[n/pack.FramePages][n%pack.FramePages]
	}
	pack, page := t.stored(l)
	return &t.known[pack].Index.Hashes[page]
}

// storedAt is the location of a page of a registered pack.
func (t *pageTable) storedAt(pack int, page uint32) location {
	return location(t.known[pack].first + page + 1)
}

// stored is the inverse of storedAt.
func (t *pageTable) stored(l location) (pack int, page uint32) {
	n := uint32(l - 1)
	k := &t.known[t.last]
	if n < k.first || n-k.first >= uint32(len(k.Index.Hashes)) {
		t.last = sort.Search(len(t.known), func(i int) bool { return t.known[i].first > n }) - 1
		k = &t.known[t.last]
	}
	return t.last, n - k.first
}

// registerAll adds existing packs and returns their numbers.
func (t *pageTable) registerAll(packs []Known) []int {
	pages := 0
	for _, k := range packs {
		if _, ok := t.packs[k.Digest]; !ok && k.Index.Key() == t.key {
			pages += len(k.Index.Hashes)
		}
	}
	t.reserve(pages) // once for all: each growth moves every page
	numbers := make([]int, len(packs))
	for i, k := range packs {
		numbers[i] = t.register(k)
	}
	return numbers
}

// register adds an existing pack's pages and returns the pack's number, or
// unknownPack when it is under another key or there are no numbers left for its
// pages.
func (t *pageTable) register(k Known) int {
	if n, ok := t.packs[k.Digest]; ok {
		return n
	}
	if k.Index.Key() != t.key {
		return unknownPack
	}
	var first uint32
	if n := len(t.known); n > 0 {
		first = t.known[n-1].first + uint32(len(t.known[n-1].Index.Hashes))
	}
	if int64(first)+int64(len(k.Index.Hashes)) > maxKnownPages {
		return unknownPack
	}
	n := len(t.known)
	t.packs[k.Digest] = n
	t.known = append(t.known, knownPack{k.Opened, first})
	for i := range k.Index.Hashes {
		if k.Only != nil && !k.Only.Has(uint32(i)) {
			continue
		}
		if h := &k.Index.Hashes[i]; t.find(h) == 0 {
			t.insert(h, t.storedAt(n, uint32(i)))
		}
	}
	return n
}

// slot and tag of a hash: the slot follows from its first 8 bytes, spread over
// any number of slots; the tag is its ninth.
func (t *pageTable) slot(h *pack.Hash) int {
	n, _ := bits.Mul64(binary.BigEndian.Uint64(h[:]), uint64(len(t.tags)))
	return int(n)
}

func tag(h *pack.Hash) uint8 { return max(h[8], 1) }

// find gives the location of a page with this hash, or 0.
func (t *pageTable) find(h *pack.Hash) location {
	for i, want := t.slot(h), tag(h); ; {
		switch t.tags[i] {
		case 0:
			return 0
		case want:
			if *t.hashAt(t.at[i]) == *h {
				return t.at[i]
			}
		}
		if i++; i == len(t.tags) {
			i = 0
		}
	}
}

// insert adds a page that find did not find.
func (t *pageTable) insert(h *pack.Hash, l location) {
	if (t.used+1)*5 > len(t.tags)*4 {
		size := 2 * len(t.tags)
		if len(t.tags) >= slowSlots {
			size = len(t.tags) / 4 * 5
		}
		t.resize(size)
	}
	t.place(h, l)
	t.used++
}

func (t *pageTable) place(h *pack.Hash, l location) {
	i := t.slot(h)
	for t.tags[i] != 0 {
		if i++; i == len(t.tags) {
			i = 0
		}
	}
	t.tags[i], t.at[i] = tag(h), l
}

// reserve makes room for n more pages, and for a fifth of them beside: to grow
// moves every page while all who place some wait.
func (t *pageTable) reserve(n int) {
	if want := (t.used + n) / 2 * 3; want > len(t.tags) {
		t.resize(want)
	}
}

func (t *pageTable) resize(size int) {
	tags, at := t.tags, t.at
	t.tags, t.at = make([]uint8, size), make([]location, size)
	for i := range tags {
		if tags[i] != 0 {
			t.place(t.hashAt(at[i]), at[i])
		}
	}
}

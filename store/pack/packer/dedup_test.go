package packer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/opencontainers/go-digest"
)

func numbered(n int) pack.Hash {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	sum := sha256.Sum256(b[:])
	return pack.Hash(sum[:])
}

// syntheticPacks have the pages 0, 1, 2 … in order.
func syntheticPacks(packs, pages int) []Known {
	var known []Known
	for p := range packs {
		ix := &pack.Index{Hashes: make([]pack.Hash, pages)}
		for i := range ix.Hashes {
			ix.Hashes[i] = numbered(p*pages + i)
		}
		known = append(known, Known{Opened: pack.Opened{Digest: digest.FromString(fmt.Sprint(p)), Index: ix}})
	}
	return known
}

// A table finds every page of the packs it was given and of those stored since,
// finds no other, and stays within its memory.
func TestPageTable(t *testing.T) {
	const packs, packPages, fresh = 40, 25_000, 200_000
	table := newPageTable()
	for p, n := range table.registerAll(syntheticPacks(packs, packPages)) {
		if n != p {
			t.Fatalf("pack %d got number %d", p, n)
		}
	}
	perPage := func() float64 {
		return 16 + float64(5*len(table.tags))/float64(table.used)
	}
	if got := perPage(); got > 24 {
		t.Errorf("%.1f bytes a page of known packs, at most 24 are promised", got)
	}
	most := 0.0
	for i := range fresh {
		if i%pack.FramePages == 0 {
			table.fresh = append(table.fresh, new([pack.FramePages]pack.Hash))
		}
		h := numbered(packs*packPages + i)
		table.fresh[i/pack.FramePages][i%pack.FramePages] = h
		table.insert(&h, newPage|location(i))
		most = math.Max(most, perPage())
	}
	if most > 24 {
		t.Errorf("%.1f bytes a page after new ones, at most 24 are promised", most)
	}
	for i := range packs * packPages {
		h := numbered(i)
		pack, page := table.stored(table.find(&h))
		if pack != i/packPages || int(page) != i%packPages {
			t.Fatalf("page %d of pack %d found at page %d of pack %d", i%packPages, i/packPages, page, pack)
		}
	}
	for i := range fresh {
		h := numbered(packs*packPages + i)
		if l := table.find(&h); l != newPage|location(i) {
			t.Fatalf("new page %d found at %#x", i, l)
		}
		h = numbered(packs*packPages + fresh + i)
		if l := table.find(&h); l != 0 {
			t.Fatalf("a page that is nowhere found at %#x", l)
		}
	}
}

// A pack whose pages cannot be numbered any more is left alone.
func TestPageTableRefusesMoreThanItCanNumber(t *testing.T) {
	table := newPageTable()
	table.known = []knownPack{{Opened: pack.Opened{Index: &pack.Index{Hashes: []pack.Hash{{}}}}, first: maxKnownPages - 2}}
	two := &pack.Index{Hashes: []pack.Hash{{1}, {2}}}
	if n := table.register(Known{Opened: pack.Opened{Digest: digest.FromString("two"), Index: two}}); n != unknownPack {
		t.Errorf("pack got number %d beyond the last page number", n)
	}
}

// BenchmarkRegister is what a capture pays for each page that it may reuse.
func BenchmarkRegister(b *testing.B) {
	const packs, packPages = 32, 32 << 10
	known := syntheticPacks(packs, packPages)
	for b.Loop() {
		newPageTable().registerAll(known)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(packs*packPages), "ns/page")
}

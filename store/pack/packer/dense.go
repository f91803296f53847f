package packer

import (
	"math/bits"

	"github.com/cocoonv2/cocoon/store/pack"
)

// class says which frame a page is stored in. Pages that will not compress
// (compressed or encrypted already, random) stand in frames of their own, which
// zstd then stores raw: between other pages they would be Huffman-coded with
// them, for nothing, and decoded at each restore.
type class int

const (
	plain class = iota
	dense
	classes // how many there are
)

const (
	denseSamples = 256 // bytes of a page that are looked at
	firstSamples = 64  // of these, enough to tell most pages
	// Random bytes have 162 ± 6 different values among 256, 57 ± 2 among 64.
	denseValues = 140
	firstValues = 45
)

// classify judges a page by how many different values a sample of its bytes
// has: text, code, pointers and tables have few. A wrong guess costs a little
// space, since dense frames go through zstd as well.
func classify(page []byte) class {
	var seen [4]uint64
	for i := range denseSamples {
		if i == firstSamples && distinct(&seen) < firstValues {
			return plain
		}
		// One byte of sixteen, at each place within sixteen in turn: what holds
		// records has columns.
		v := page[i*(pack.PageSize/denseSamples)+i%(pack.PageSize/denseSamples)]
		seen[v/64] |= 1 << (v % 64)
	}
	if distinct(&seen) < denseValues {
		return plain
	}
	return dense
}

func distinct(seen *[4]uint64) int {
	return bits.OnesCount64(seen[0]) + bits.OnesCount64(seen[1]) + bits.OnesCount64(seen[2]) + bits.OnesCount64(seen[3])
}

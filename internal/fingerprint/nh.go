package fingerprint

import (
	"encoding/binary"
	"math/bits"
)

// uint128 is an integer modulo 2^128.
type uint128 struct{ low, high uint64 }

// nh is NH of a page under the key from its first word on, and under the key
// from its third word on: the sum modulo 2^128 of (m0+k0)(m1+k1) over all pairs
// of words, where the additions within are modulo 2^64. Words are little-endian.
// It is written out so that the sums stay in registers.
func nh(key *[keyWords]uint64, page *[PageBytes]byte) (first, second uint128) {
	k, moved := (*[words]uint64)(key[:]), (*[words]uint64)(key[2:])
	var low1, high1, low2, high2, carry uint64
	for i := 0; i < words; i += 2 {
		m0 := binary.LittleEndian.Uint64(page[8*i:])
		m1 := binary.LittleEndian.Uint64(page[8*i+8:])
		h, l := bits.Mul64(m0+k[i], m1+k[i+1])
		low1, carry = bits.Add64(low1, l, 0)
		high1, _ = bits.Add64(high1, h, carry)
		h, l = bits.Mul64(m0+moved[i], m1+moved[i+1])
		low2, carry = bits.Add64(low2, l, 0)
		high2, _ = bits.Add64(high2, h, carry)
	}
	return uint128{low1, high1}, uint128{low2, high2}
}

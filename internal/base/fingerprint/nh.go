package fingerprint

import "encoding/binary"

// plainNH is NH of a page in four passes, the key beginning one pair of words
// later in each: the sum modulo 2^64 of (m0+k0)(m1+k1) over all pairs of words of
// 32 bits, where the additions within are modulo 2^32. Words are little-endian.
func plainNH(key *[keyWords]uint32, page *[PageBytes]byte) [passes]uint64 {
	var a, b, c, d uint64
	for i := 0; i < words; i += 2 {
		k := (*[2 * passes]uint32)(key[i:])
		m := binary.LittleEndian.Uint64(page[4*i:])
		m0, m1 := uint32(m), uint32(m>>32)
		a += uint64(m0+k[0]) * uint64(m1+k[1])
		b += uint64(m0+k[2]) * uint64(m1+k[3])
		c += uint64(m0+k[4]) * uint64(m1+k[5])
		d += uint64(m0+k[6]) * uint64(m1+k[7])
	}
	return [passes]uint64{a, b, c, d}
}

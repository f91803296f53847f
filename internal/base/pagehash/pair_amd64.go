package pagehash

import (
	"crypto/sha256"
	"encoding/binary"
)

// pairs: this processor can run pairBlocks.
var pairs = hasSHA()

// hasSHA checks for the SHA instructions and for the others used here (SSSE3's
// PSHUFB and PALIGNR).
func hasSHA() bool {
	const ssse3, sha = 1 << 9, 1 << 29
	if most, _, _ := cpuid(0, 0); most < 7 {
		return false
	}
	_, _, features := cpuid(1, 0)
	_, extended, _ := cpuid(7, 0)
	return features&ssse3 != 0 && extended&sha != 0
}

// state is a SHA-256 state in the order of the SHA instructions: the words
// f e b a h g d c.
type state [8]uint32

var initialState = state{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}

// sum is the words a b c d, big-endian.
func (s *state) sum() (out Sum) {
	be := binary.BigEndian
	be.PutUint32(out[0:], s[3])
	be.PutUint32(out[4:], s[2])
	be.PutUint32(out[8:], s[7])
	be.PutUint32(out[12:], s[6])
	return out
}

// pair hashes a and b, which have the same length.
func pair(a, b []byte) (Sum, Sum) {
	s := [2]state{initialState, initialState}
	whole := len(a) / sha256.BlockSize
	if whole > 0 {
		pairBlocks(&s, &a[0], &b[0], whole)
	}
	// The rest of the data, a one bit, zeros, and the length in bits end the
	// message.
	var lastA, lastB [2 * sha256.BlockSize]byte
	n := copy(lastA[:], a[whole*sha256.BlockSize:])
	copy(lastB[:], b[whole*sha256.BlockSize:])
	lastA[n], lastB[n] = 0x80, 0x80
	blocks := 1
	if n+1+8 > sha256.BlockSize {
		blocks = 2
	}
	end := blocks*sha256.BlockSize - 8
	binary.BigEndian.PutUint64(lastA[end:], uint64(len(a))*8)
	binary.BigEndian.PutUint64(lastB[end:], uint64(len(b))*8)
	pairBlocks(&s, &lastA[0], &lastB[0], blocks)
	return s[0].sum(), s[1].sum()
}

// pairBlocks adds blocks of 64 bytes from a to the first state and as many
// from b to the second.
//
//go:noescape
func pairBlocks(states *[2]state, a, b *byte, blocks int)

// cpuid executes the instruction of that name.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx uint32)

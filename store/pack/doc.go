// Package pack stores the 4 KiB pages of RAM images and disks, each distinct
// page once, compressed and verified.
//
// # Words
//
// A page is 4 KiB of an image. A frame is one independent zstd frame of up to
// 256 pages. A pack is a file of frames followed by its own index: the hash of
// every page and the length of every frame. A page map ([Map]) says, for one
// image, which page of which pack stands at each address; a page that it does
// not name is zero. A parent is an earlier image whose pages a new one may
// reuse. docs/format.md gives both layouts byte by byte. Package packer writes
// packs.
//
// # Reading
//
// An [Image] is an opened map. [Image.WriteTo] expands it: each needed frame is
// read once, in pack order, in parallel. [Image.ReadAt] reads anywhere. A [Scan]
// reads frames that may be damaged, and [Reindex] rebuilds a lost index from
// them.
//
// # Invariants
//
//  1. Identity of a page is its SHA-256 cut to 16 bytes; guests choose the
//     contents of their pages, so nothing weaker decides that two pages are the
//     same. That a page did not change may also be shown by a fingerprint under a
//     secret key, which no guest can forge.
//  2. No page leaves this package before its hash was compared; this cannot be
//     turned off. A page that differs is failure.Damaged.
//  3. No length read from a file is used before it is checked against the size of
//     its container. Damaged input is an error, never a panic.
//  4. A pack is written strictly from its first byte to its last and, unless it
//     is encrypted (seal.go), is a valid zstd file (`zstd -t` accepts it).
//  5. A pack never exceeds [MaxPackBytes]; memory used by WriteTo does not grow
//     with the image.
//  6. A pack whose key is missing is keyring.Missing, never damaged.
package pack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/cocoonv2/cocoon/internal/base/pagehash"
)

const (
	// PageSize is the bytes of a page, of RAM and of disks alike.
	PageSize = 4096
	// FramePages is the most pages that one zstd frame holds.
	FramePages = 256
	// MaxPackBytes is the largest size of a pack file, index included.
	MaxPackBytes = 64 << 20
	// MaxImageBytes is the largest image that a Map describes (64 TiB).
	MaxImageBytes = 1 << 46

	frameRawBytes = FramePages * PageSize
	// MaxFrameBytes bounds a stored frame: raw blocks cost 3 bytes each 128 KiB.
	MaxFrameBytes = frameRawBytes + 4096
	// MaxPackPages keeps a page number within 20 bits (docs/format.md).
	MaxPackPages = 1 << 20
)

// Hash identifies a page: SHA-256 of its 4096 bytes cut to 16 bytes.
type Hash [hashBytes]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Sum hashes one page of PageSize bytes.
func Sum(page []byte) Hash { return Hash(pagehash.Of(page)) }

// sumPair hashes two pages in little more time than one takes.
func sumPair(a, b []byte) (Hash, Hash) {
	x, y := pagehash.Pair(a, b)
	return Hash(x), Hash(y)
}

// SumEach hashes the pages with these numbers, two at a time.
func SumEach(numbers []int, page func(i int) []byte, do func(i int, h Hash)) {
	for ; len(numbers) > 1; numbers = numbers[2:] {
		a, b := sumPair(page(numbers[0]), page(numbers[1]))
		do(numbers[0], a)
		do(numbers[1], b)
	}
	if len(numbers) > 0 {
		do(numbers[0], Sum(page(numbers[0])))
	}
}

// IsZero reports whether a page holds only zero bytes. After the first eight
// bytes are known to be zero, a page equal to itself shifted by eight is zero.
func IsZero(page []byte) bool {
	return binary.LittleEndian.Uint64(page) == 0 && bytes.Equal(page[8:], page[:len(page)-8])
}

// PagesOf is the number of pages that n bytes touch.
func PagesOf(n uint64) uint64 { return (n + PageSize - 1) / PageSize }

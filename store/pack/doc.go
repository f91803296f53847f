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
// reuse. docs/format.md gives both layouts byte by byte.
//
// # Writing
//
// A [Writer] turns the pages of one or more images into packs. For each page
// it asks, in this order: is it zero (recorded, not stored); does the parent
// have the same page at the same address, by its print ([Fingerprints]) or by its
// hash; is it anywhere in the parent's packs,
// in those of its family (other guests of the same image) or among the pages
// this Writer stored already; else it is appended to the open frame, in the
// order the pages came (what will not compress has a frame of its own). Full
// frames are compressed in parallel and written in
// order. [Writer.Flush] moves pages out of old frames of which little is used,
// until a restore needs at most half as many frames again as after a fresh
// capture, and ends the last pack; then every [ImageWriter.Finish] gives its
// map.
//
// # Reading
//
// An [Image] is an opened map. [Image.WriteTo] expands it: each needed frame
// is read once, in pack order, in parallel. [Image.ReadAt] reads anywhere.
//
// # Invariants
//
//  1. Identity of a page is its SHA-256 cut to 16 bytes; guests choose what
//     their pages hold, so nothing weaker decides that two pages are one. That a
//     page did not change may also be said by a print under a secret key, which
//     no guest can work with.
//  2. No page leaves this package without its hash having been compared; there
//     is no way to turn that off. A page that differs is failure.Damaged.
//  3. No length read from a file is believed before it is bounded by the size
//     of what holds it. Damaged input is an error, never a panic.
//  4. A pack is written strictly from its first byte to its last and, unless it
//     is encrypted (seal.go), is a valid zstd file (`zstd -t` accepts it).
//  5. A pack never exceeds [MaxPackBytes]; memory used by a Writer or by
//     WriteTo does not grow with the image except for tables of at most about
//     24 bytes a stored page and 4 bytes a page of the image.
//  6. Pages of packs under one key are reused only in packs under the same key;
//     a pack whose key is not at hand is keyring.Missing, never damaged.
package pack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/cocoonv2/cocoon/internal/pagehash"
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
	// maxFrameBytes bounds a stored frame: raw blocks cost 3 bytes each 128 KiB.
	maxFrameBytes = frameRawBytes + 4096
	// maxPackPages keeps a page number within 20 bits (docs/format.md).
	maxPackPages = 1 << 20
)

// Hash identifies a page: SHA-256 of its 4096 bytes cut to 16 bytes.
type Hash pagehash.Sum

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Sum hashes one page of PageSize bytes.
func Sum(page []byte) Hash { return Hash(pagehash.Of(page)) }

// sumPair hashes two pages in little more time than one takes.
func sumPair(a, b []byte) (Hash, Hash) {
	x, y := pagehash.Pair(a, b)
	return Hash(x), Hash(y)
}

// isZero reports whether a page holds only zero bytes. After the first eight
// bytes are known to be zero, a page equal to itself shifted by eight is zero.
func isZero(page []byte) bool {
	return binary.LittleEndian.Uint64(page) == 0 && bytes.Equal(page[8:], page[:len(page)-8])
}

// pagesOf is the number of pages that n bytes touch.
func pagesOf(n uint64) uint64 { return (n + PageSize - 1) / PageSize }

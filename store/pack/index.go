package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/pagehash"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// Layout of a pack's end, docs/format.md "Pack". All integers little-endian.
const (
	packMagic      = "COCOPACK"
	packVersion    = 1
	skippableMagic = 0x184D2A5C
	skippableBytes = 8
	frameEntry     = 8
	hashBytes      = pagehash.Bytes
	packTailBytes  = 64
	tailSumAt      = 24 // offset of the checksum within the tail
	tailMagicAt    = 56
)

// Frame is one zstd frame of a pack.
type Frame struct {
	Offset int64  // bytes from the start of the pack
	Bytes  uint32 // compressed length
	First  uint32 // number of its first page within the pack
	Pages  uint32 // 1 to FramePages
}

// Index is what a pack says of itself: Hashes has one entry a page, in pack
// order; Frames cover those pages without gap.
type Index struct {
	Hashes []Hash
	Frames []Frame
	seal   *seal // nil of a plain pack
}

// Key is the key that the pack is encrypted with; the zero ID of a plain one.
func (ix *Index) Key() keyring.ID {
	if ix.seal == nil {
		return keyring.ID{}
	}
	return ix.seal.key
}

// indexBytes is the length of the index frame, tail included.
func indexBytes(frames, pages int) int64 {
	return int64(skippableBytes + frames*frameEntry + pages*hashBytes + packTailBytes)
}

// FrameOf is the number of the frame that holds a page of the pack.
func (ix *Index) FrameOf(page uint32) int {
	return sort.Search(len(ix.Frames), func(i int) bool { return ix.Frames[i].First > page }) - 1
}

// Encode gives the skippable zstd frame that ends a pack whose data frames
// take the first dataBytes bytes.
func (ix *Index) Encode(dataBytes int64) []byte {
	if ix.seal != nil {
		return ix.seal.closeIndex(ix, dataBytes)
	}
	le := binary.LittleEndian
	total := indexBytes(len(ix.Frames), len(ix.Hashes))
	b := make([]byte, 0, total)
	b = le.AppendUint32(b, skippableMagic)
	b = le.AppendUint32(b, uint32(total-skippableBytes))
	b = ix.appendTables(b)
	b = le.AppendUint64(b, uint64(dataBytes))
	b = le.AppendUint32(b, uint32(len(ix.Frames)))
	b = le.AppendUint32(b, uint32(len(ix.Hashes)))
	b = le.AppendUint32(b, PageSize)
	b = le.AppendUint16(b, packVersion)
	b = le.AppendUint16(b, 0)
	return finishIndex(b)
}

// appendTables appends the frames and the hashes.
func (ix *Index) appendTables(b []byte) []byte {
	le := binary.LittleEndian
	for _, f := range ix.Frames {
		b = le.AppendUint32(b, f.Bytes)
		b = le.AppendUint16(b, uint16(f.Pages))
		b = le.AppendUint16(b, 0)
	}
	for i := range ix.Hashes {
		b = append(b, ix.Hashes[i][:]...)
	}
	return b
}

// finishIndex appends what ends every pack.
func finishIndex(b []byte) []byte {
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	return append(b, packMagic...)
}

// ReadIndex reads and checks the index of a pack of size bytes. It allocates
// at most twice that. Errors: failure.Damaged when the bytes are not an intact
// index, failure.Incompatible for a later version and for an encrypted pack
// whose key is not among keys ([keyring.Missing]); others come from r.
func ReadIndex(r io.ReaderAt, size int64, keys keyring.Keys) (*Index, error) {
	if size < indexBytes(1, 1) || size > MaxPackBytes {
		return nil, damaged("pack index: a pack cannot have %d bytes", size)
	}
	var tail [packTailBytes]byte
	if err := readFull(r, tail[:], size-packTailBytes); err != nil {
		return nil, fmt.Errorf("pack index: read tail: %w", err)
	}
	if string(tail[tailMagicAt:]) != packMagic {
		return nil, damaged("pack index: tail has no magic")
	}
	at := binary.LittleEndian.Uint64(tail[:])
	if at > uint64(size-packTailBytes-skippableBytes) {
		return nil, damaged("pack index: begins at %d of %d bytes", at, size)
	}
	b := make([]byte, size-int64(at))
	if err := readFull(r, b, int64(at)); err != nil {
		return nil, fmt.Errorf("pack index: read: %w", err)
	}
	return decodeIndex(b, int64(at), keys)
}

// decodeIndex parses the index frame b that begins at offset at of its pack.
func decodeIndex(b []byte, at int64, keys keyring.Keys) (*Index, error) {
	le := binary.LittleEndian
	tail := b[len(b)-packTailBytes:]
	sum := sha256.Sum256(b[:len(b)-packTailBytes+tailSumAt])
	if string(tail[tailSumAt:tailMagicAt]) != string(sum[:]) {
		return nil, damaged("pack index: checksum differs")
	}
	version := le.Uint16(tail[20:])
	if version != packVersion && version != sealedVersion {
		return nil, failure.New(failure.Incompatible, "pack index: version %d, this program reads %d and %d", version, packVersion, sealedVersion)
	}
	switch {
	case le.Uint64(tail) != uint64(at) || string(tail[tailMagicAt:]) != packMagic:
		return nil, damaged("pack index: read at %d, says %d", at, le.Uint64(tail))
	case le.Uint32(tail[16:]) != PageSize || le.Uint16(tail[22:]) != 0:
		return nil, damaged("pack index: page size %d, flags %#x", le.Uint32(tail[16:]), le.Uint16(tail[22:]))
	case version == sealedVersion:
		return openIndex(b, at, keys)
	case le.Uint32(b) != skippableMagic || int64(le.Uint32(b[4:])) != int64(len(b))-skippableBytes:
		return nil, damaged("pack index: not inside a skippable frame")
	}
	frames, pages := int64(le.Uint32(tail[8:])), int64(le.Uint32(tail[12:]))
	if err := countsFit(frames, pages, func() bool { return indexBytes(int(frames), int(pages)) == int64(len(b)) }); err != nil {
		return nil, err
	}
	return decodeTables(b[skippableBytes:], frames, pages, at, nil)
}

// countsFit bounds what an index says it holds; fits compares it with its length.
func countsFit(frames, pages int64, fits func() bool) error {
	switch {
	case pages < 1 || pages > MaxPackPages || frames < 1 || frames > pages:
		return damaged("pack index: %d frames of %d pages", frames, pages)
	case !fits():
		return damaged("pack index: it is not as long as %d frames of %d pages are", frames, pages)
	}
	return nil
}

// decodeTables parses the frames and hashes of a pack whose index begins at
// offset at; their number was checked.
func decodeTables(b []byte, frames, pages, at int64, s *seal) (*Index, error) {
	ix := &Index{Hashes: make([]Hash, pages), Frames: make([]Frame, frames), seal: s}
	if err := ix.decodeFrames(b, at); err != nil {
		return nil, err
	}
	b = b[frames*frameEntry:]
	for i := range ix.Hashes {
		ix.Hashes[i] = Hash(b[i*hashBytes : (i+1)*hashBytes])
	}
	return ix, nil
}

// decodeFrames fills ix.Frames from the frame table; head and frames must fill
// the pack's first dataBytes bytes and hold exactly its pages.
func (ix *Index) decodeFrames(table []byte, dataBytes int64) error {
	le := binary.LittleEndian
	offset, first, extra := ix.headBytes(), int64(0), uint32(ix.Overhead())
	for i := range ix.Frames {
		e := table[i*frameEntry:]
		f := Frame{Offset: offset, Bytes: le.Uint32(e), First: uint32(first), Pages: uint32(le.Uint16(e[4:]))}
		if f.Bytes <= extra || f.Bytes > MaxFrameBytes+extra || f.Pages == 0 || f.Pages > FramePages || le.Uint16(e[6:]) != 0 {
			return damaged("pack index: frame %d has %d bytes, %d pages, flags %#x", i, f.Bytes, f.Pages, le.Uint16(e[6:]))
		}
		offset += int64(f.Bytes)
		first += int64(f.Pages)
		ix.Frames[i] = f
	}
	if offset != dataBytes || first != int64(len(ix.Hashes)) {
		return damaged("pack index: frames take %d of %d bytes and %d of %d pages", offset, dataBytes, first, len(ix.Hashes))
	}
	return nil
}

func damaged(format string, args ...any) error {
	return failure.New(failure.Damaged, format, args...)
}

// readFull reads len(b) bytes at off; a file that ends early is damaged.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || err == io.EOF:
		return damaged("file ends at byte %d, %d bytes early", off+int64(n), len(b)-n)
	default:
		return err
	}
}

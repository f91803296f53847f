package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// Layout of a pack's end, docs/format.md "Pack". All integers little-endian.
const (
	packMagic      = "COCOPACK"
	packVersion    = 1
	skippableMagic = 0x184D2A5C
	skippableBytes = 8
	frameEntry     = 8
	hashBytes      = len(Hash{})
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
}

// indexBytes is the length of the index frame, tail included.
func indexBytes(frames, pages int) int64 {
	return int64(skippableBytes + frames*frameEntry + pages*hashBytes + packTailBytes)
}

// frameOf is the number of the frame that holds a page of the pack.
func (ix *Index) frameOf(page uint32) int {
	return sort.Search(len(ix.Frames), func(i int) bool { return ix.Frames[i].First > page }) - 1
}

// encode gives the skippable zstd frame that ends a pack whose data frames
// take the first dataBytes bytes.
func (ix *Index) encode(dataBytes int64) []byte {
	le := binary.LittleEndian
	total := indexBytes(len(ix.Frames), len(ix.Hashes))
	b := make([]byte, 0, total)
	b = le.AppendUint32(b, skippableMagic)
	b = le.AppendUint32(b, uint32(total-skippableBytes))
	for _, f := range ix.Frames {
		b = le.AppendUint32(b, f.Bytes)
		b = le.AppendUint16(b, uint16(f.Pages))
		b = le.AppendUint16(b, 0)
	}
	for i := range ix.Hashes {
		b = append(b, ix.Hashes[i][:]...)
	}
	b = le.AppendUint64(b, uint64(dataBytes))
	b = le.AppendUint32(b, uint32(len(ix.Frames)))
	b = le.AppendUint32(b, uint32(len(ix.Hashes)))
	b = le.AppendUint32(b, PageSize)
	b = le.AppendUint16(b, packVersion)
	b = le.AppendUint16(b, 0)
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	return append(b, packMagic...)
}

// ReadIndex reads and checks the index of a pack of size bytes. It allocates
// at most twice that. Errors: failure.Damaged when the bytes are not an intact
// index, failure.Incompatible for a later version; others come from r.
func ReadIndex(r io.ReaderAt, size int64) (*Index, error) {
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
	return decodeIndex(b, int64(at))
}

// decodeIndex parses the index frame b that begins at offset at of its pack.
func decodeIndex(b []byte, at int64) (*Index, error) {
	le := binary.LittleEndian
	tail := b[len(b)-packTailBytes:]
	sum := sha256.Sum256(b[:len(b)-packTailBytes+tailSumAt])
	if string(tail[tailSumAt:tailMagicAt]) != string(sum[:]) {
		return nil, damaged("pack index: checksum differs")
	}
	if v := le.Uint16(tail[20:]); v != packVersion {
		return nil, failure.New(failure.Incompatible, "pack index: version %d, this program reads %d", v, packVersion)
	}
	frames, pages := int64(le.Uint32(tail[8:])), int64(le.Uint32(tail[12:]))
	switch {
	case le.Uint64(tail) != uint64(at) || string(tail[tailMagicAt:]) != packMagic:
		return nil, damaged("pack index: read at %d, says %d", at, le.Uint64(tail))
	case le.Uint32(tail[16:]) != PageSize || le.Uint16(tail[22:]) != 0:
		return nil, damaged("pack index: page size %d, flags %#x", le.Uint32(tail[16:]), le.Uint16(tail[22:]))
	case pages < 1 || pages > maxPackPages || frames < 1 || frames > pages:
		return nil, damaged("pack index: %d frames of %d pages", frames, pages)
	case indexBytes(int(frames), int(pages)) != int64(len(b)):
		return nil, damaged("pack index: %d bytes for %d frames of %d pages", len(b), frames, pages)
	case le.Uint32(b) != skippableMagic || int64(le.Uint32(b[4:])) != int64(len(b))-skippableBytes:
		return nil, damaged("pack index: not inside a skippable frame")
	}
	ix := &Index{Hashes: make([]Hash, pages), Frames: make([]Frame, frames)}
	if err := ix.decodeFrames(b[skippableBytes:], at); err != nil {
		return nil, err
	}
	b = b[skippableBytes+frames*frameEntry:]
	for i := range ix.Hashes {
		ix.Hashes[i] = Hash(b[i*hashBytes : (i+1)*hashBytes])
	}
	return ix, nil
}

// decodeFrames fills ix.Frames from the frame table; the frames must fill the
// pack's first dataBytes bytes and hold exactly its pages.
func (ix *Index) decodeFrames(table []byte, dataBytes int64) error {
	le := binary.LittleEndian
	var offset, first int64
	for i := range ix.Frames {
		e := table[i*frameEntry:]
		f := Frame{Offset: offset, Bytes: le.Uint32(e), First: uint32(first), Pages: uint32(le.Uint16(e[4:]))}
		if f.Bytes == 0 || f.Bytes > maxFrameBytes || f.Pages == 0 || f.Pages > FramePages || le.Uint16(e[6:]) != 0 {
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

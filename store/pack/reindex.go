package pack

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/cocoonv2/cocoon/store/keyring"
)

// Reindex makes the index of a pack from its frames, which say themselves how
// long they are and are told good from bad by zstd's checksum. size is that of
// the damaged file; data that follows the last sound frame is taken for the
// lost index. Whether it is right shows when the pack is rebuilt and its digest compared.
func Reindex(r io.ReaderAt, size int64, keys keyring.Keys) (*Index, error) {
	if size < 1 || size > MaxPackBytes {
		return nil, damaged("a pack cannot have %d bytes", size)
	}
	b := make([]byte, size)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	m, err := NewScan()
	if err != nil {
		return nil, err
	}
	s, err := reseal(b, keys)
	if err != nil {
		return nil, err
	}
	ix := &Index{seal: s}
	for at := int(ix.headBytes()); at < len(b); {
		n, pages := ix.nextFrame(b[at:])
		if n == 0 {
			break
		}
		ix.Frames = append(ix.Frames, Frame{Offset: int64(at), Bytes: uint32(n), First: uint32(len(ix.Hashes)), Pages: uint32(pages)})
		packed, err := ix.open(len(ix.Frames)-1, bytes.Clone(b[at:at+n]))
		var raw []byte
		if err == nil {
			raw, err = m.decoder.DecodeAll(packed, make([]byte, 0, frameRawBytes))
		}
		if err != nil || len(raw) == 0 || len(raw)%PageSize != 0 {
			return nil, damaged("the index and the frame at byte %d are both damaged", at)
		}
		ix.Frames[len(ix.Frames)-1].Pages = uint32(len(raw) / PageSize)
		for p := 0; p < len(raw); p += PageSize {
			ix.Hashes = append(ix.Hashes, Sum(raw[p:p+PageSize]))
		}
		at += n
	}
	if len(ix.Frames) == 0 || len(ix.Hashes) > MaxPackPages {
		return nil, damaged("no frames")
	}
	return ix, nil
}

// nextFrame is the length of the frame at the beginning of b, behind those that
// are indexed; 0 when there is none. A sealed one says how many pages it holds.
func (ix *Index) nextFrame(b []byte) (n, pages int) {
	if ix.seal != nil {
		return ix.seal.frameLength(b, len(ix.Frames))
	}
	return frameLength(b), 0
}

// Layout of a zstd frame, RFC 8878 section 3.1.1.
var zstdMagic = []byte{0x28, 0xB5, 0x2F, 0xFD}

const (
	zstdSingleSegment = 1 << 5
	zstdChecksum      = 1 << 2
	zstdBlockHeader   = 3
	zstdRLE           = 1
)

// frameLength walks over the blocks of the zstd frame at the beginning of b; 0
// when there is none.
func frameLength(b []byte) int {
	if len(b) < 6 || !bytes.HasPrefix(b, zstdMagic) {
		return 0
	}
	head := b[4]
	at := 5
	if head&zstdSingleSegment == 0 {
		at++ // window descriptor
	}
	at += []int{0, 1, 2, 4}[head&3] // dictionary id
	switch size := head >> 6; {
	case size == 0 && head&zstdSingleSegment != 0:
		at++
	case size > 0:
		at += 1 << size
	}
	for {
		if at+zstdBlockHeader > len(b) {
			return 0
		}
		h := uint32(b[at]) | uint32(binary.LittleEndian.Uint16(b[at+1:]))<<8
		at += zstdBlockHeader
		if h>>1&3 == zstdRLE {
			at++
		} else {
			at += int(h >> 3)
		}
		if h&1 != 0 { // the last block
			break
		}
	}
	if head&zstdChecksum != 0 {
		at += 4
	}
	if at > len(b) || at > MaxFrameBytes {
		return 0
	}
	return at
}

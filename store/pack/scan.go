package pack

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Scan reads frames that may be damaged, and says which of their pages are right.
// Not for concurrent use; what it gives is valid until the next Read.
type Scan struct {
	decoder *zstd.Decoder // with checksums, unlike the one for reading

	Stored []byte // the frame as it stands in the pack
	Packed []byte // the same, opened; nil when it does not decode to its pages
	Pages  []byte // its pages
	Sound  []bool // which of them are right
	Whole  bool   // all of them, and the frame's own bytes too
}

// NewScan makes one.
func NewScan() (*Scan, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(frameRawBytes),
		zstd.WithDecoderMaxWindow(frameRawBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Scan{decoder: decoder}, nil
}

// Read decodes frame i of a pack as far as it goes and compares its pages.
func (s *Scan) Read(r io.ReaderAt, ix *Index, i int) {
	f := ix.Frames[i]
	s.Stored = append(s.Stored[:0], make([]byte, f.Bytes)...)
	s.Pages = append(s.Pages[:0], make([]byte, f.Pages*PageSize)...)
	n, _ := r.ReadAt(s.Stored, f.Offset)
	packed, intact := ix.openDamaged(i, s.Stored[:n])
	out, err := s.decoder.DecodeAll(packed, s.Pages[:0:len(s.Pages)])
	s.Whole = err == nil && len(out) == len(s.Pages)
	s.Sound = s.Sound[:0]
	for p := range f.Pages {
		ok := Sum(s.Pages[p*PageSize:][:PageSize]) == ix.Hashes[f.First+p]
		s.Sound = append(s.Sound, ok)
		s.Whole = s.Whole && ok
	}
	if s.Packed = nil; s.Whole {
		s.Packed = packed
	}
	s.Whole = s.Whole && intact
}

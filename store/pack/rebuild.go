package pack

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// A damaged pack is rebuilt byte for byte: its name is the digest of its bytes, so
// nothing less will do, and nothing more is believed.
// What is sound of it stays; a lost index follows from the frames, a lost frame
// from copies of its pages, compressed again as the Writer did.

// Damages says what is wrong with a pack of which the index is sound: the
// hashes of the pages that its frames do not give any more.
func Damages(r io.ReaderAt, ix *Index) ([]Hash, error) {
	m, err := newRebuilder(r)
	if err != nil {
		return nil, err
	}
	var lost []Hash
	for i := range ix.Frames {
		m.Read(m.r, ix, i)
		for p, ok := range m.Sound {
			if !ok {
				lost = append(lost, ix.Hashes[ix.Frames[i].First+uint32(p)])
			}
		}
	}
	return lost, nil
}

// Rebuild writes the pack d to w. copyOf gives a page by its hash, or false. It is
// failure.Damaged when the pack cannot be had back.
func Rebuild(w io.Writer, r io.ReaderAt, ix *Index, d digest.Digest, copyOf func(Hash, []byte) bool) error {
	m, err := newRebuilder(r)
	if err != nil {
		return err
	}
	if ix.seal != nil {
		// A nonce must not come twice: what is sealed again is written only when it
		// is known to be what stood there before.
		if err := m.rebuild(io.Discard, ix, d, copyOf); err != nil {
			return err
		}
	}
	return m.rebuild(w, ix, d, copyOf)
}

func (m *rebuilder) rebuild(w io.Writer, ix *Index, d digest.Digest, copyOf func(Hash, []byte) bool) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := out.Write(ix.Head()); err != nil {
		return err
	}
	length := ix.headBytes()
	for i := range ix.Frames {
		stored, err := m.frame(ix, i, copyOf)
		if err != nil {
			return fmt.Errorf("rebuild pack %s: %w", d, err)
		}
		if _, err := out.Write(stored); err != nil {
			return err
		}
		length += int64(len(stored))
	}
	if _, err := out.Write(ix.Encode(length)); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != d {
		return damaged("rebuild pack %s: all pages are there, but they compress to other bytes (%s)", d, got)
	}
	return nil
}

// rebuilder makes frames again.
type rebuilder struct {
	*Scan
	r        io.ReaderAt
	encoders []*zstd.Encoder // made when first needed
}

func newRebuilder(r io.ReaderAt) (*rebuilder, error) {
	s, err := NewScan()
	return &rebuilder{Scan: s, r: r}, err
}

// levels gives an encoder for each way in which a Writer may have compressed.
func (m *rebuilder) levels() ([]*zstd.Encoder, error) {
	if m.encoders != nil {
		return m.encoders, nil
	}
	for _, l := range []Level{Fastest, Better} {
		e, err := NewFrameEncoder(l, 1)
		if err != nil {
			return nil, fmt.Errorf("make zstd encoder: %w", err)
		}
		m.encoders = append(m.encoders, e)
	}
	return m.encoders, nil
}

// frame gives the stored bytes of frame i, made anew where they are damaged.
func (m *rebuilder) frame(ix *Index, i int, copyOf func(Hash, []byte) bool) ([]byte, error) {
	m.Read(m.r, ix, i)
	if m.Whole {
		return m.Stored, nil
	}
	f := ix.Frames[i]
	for p, ok := range m.Sound {
		page := m.Pages[p*PageSize:][:PageSize]
		h := ix.Hashes[f.First+uint32(p)]
		if !ok && (!copyOf(h, page) || Sum(page) != h) {
			return nil, damaged("no copy of page %d, %s", f.First+uint32(p), h)
		}
	}
	want := int(f.Bytes) - ix.Overhead()
	encoders, err := m.levels()
	if err != nil {
		return nil, err
	}
	for _, e := range encoders {
		if m.Packed == nil {
			if again := e.EncodeAll(m.Pages, nil); len(again) == want {
				m.Packed = again
			}
		}
	}
	if m.Packed != nil {
		border, sealed := ix.CloseFrame(m.Packed, i, int(f.Pages))
		return append(border, sealed...), nil
	}
	return nil, damaged("frame %d compresses to another length than before", i)
}

// FindPages calls found for each of the wanted pages that a pack holds, with
// its bytes, which are compared with the hash before.
func FindPages(r io.ReaderAt, ix *Index, want map[Hash]bool, found func(Hash, []byte)) error {
	m, err := newRebuilder(r)
	if err != nil {
		return err
	}
	for i, f := range ix.Frames {
		hit := false
		for p := range f.Pages {
			hit = hit || want[ix.Hashes[f.First+p]]
		}
		if !hit {
			continue
		}
		m.Read(m.r, ix, i)
		for p, ok := range m.Sound {
			if h := ix.Hashes[f.First+uint32(p)]; ok && want[h] {
				found(h, m.Pages[p*PageSize:][:PageSize])
			}
		}
	}
	return nil
}

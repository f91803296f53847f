package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/keyring"
)

// Mending makes a damaged pack whole again, byte for byte: its name is the
// digest of its bytes, so nothing less will do, and nothing more is believed.
// What is sound of it stays; a lost index follows from the frames, a lost frame
// from copies of its pages, compressed again as the Writer did.

// Damages says what is wrong with a pack of which the index is sound: the
// hashes of the pages that its frames do not give any more.
func Damages(r io.ReaderAt, ix *Index) ([]Hash, error) {
	m, err := newMender(r)
	if err != nil {
		return nil, err
	}
	var lost []Hash
	for i := range ix.Frames {
		m.read(ix, i)
		for p, ok := range m.sound {
			if !ok {
				lost = append(lost, ix.Hashes[ix.Frames[i].First+uint32(p)])
			}
		}
	}
	return lost, nil
}

// Mend writes the pack d to w. copyOf gives a page by its hash, or false. It is
// failure.Damaged when the pack cannot be had back.
func Mend(w io.Writer, r io.ReaderAt, ix *Index, d digest.Digest, copyOf func(Hash, []byte) bool) error {
	m, err := newMender(r)
	if err != nil {
		return err
	}
	if ix.seal != nil {
		// A nonce must not come twice: what is sealed again is written only when it
		// is known to be what stood there before.
		if err := m.mend(io.Discard, ix, d, copyOf); err != nil {
			return err
		}
	}
	return m.mend(w, ix, d, copyOf)
}

func (m *mender) mend(w io.Writer, ix *Index, d digest.Digest, copyOf func(Hash, []byte) bool) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := out.Write(ix.seal.head()); err != nil {
		return err
	}
	length := ix.seal.headBytes()
	for i := range ix.Frames {
		stored, err := m.frame(ix, i, copyOf)
		if err != nil {
			return fmt.Errorf("mend pack %s: %w", d, err)
		}
		if _, err := out.Write(stored); err != nil {
			return err
		}
		length += int64(len(stored))
	}
	if _, err := out.Write(ix.encode(length)); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != d {
		return damaged("mend pack %s: all pages are there, but they compress to other bytes (%s)", d, got)
	}
	return nil
}

// mender reads frames that may be damaged.
type mender struct {
	r        io.ReaderAt
	decoder  *zstd.Decoder   // with checksums, unlike the one for reading
	encoders []*zstd.Encoder // made when first needed: most who read need none
	stored   []byte
	packed   []byte // the frame read last, opened; nil when it does not decode to its pages
	raw      []byte
	sound    []bool // which pages of the frame read last are right
	whole    bool   // and the frame's own bytes too
}

func newMender(r io.ReaderAt) (*mender, error) {
	m := &mender{r: r}
	var err error
	m.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(frameRawBytes),
		zstd.WithDecoderMaxWindow(frameRawBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return m, nil
}

// levels gives an encoder for each way in which a Writer may have compressed.
func (m *mender) levels() ([]*zstd.Encoder, error) {
	if m.encoders != nil {
		return m.encoders, nil
	}
	for _, l := range []Level{Fastest, Better} {
		e, err := newFrameEncoder(l, 1)
		if err != nil {
			return nil, fmt.Errorf("make zstd encoder: %w", err)
		}
		m.encoders = append(m.encoders, e)
	}
	return m.encoders, nil
}

// read decodes frame i as far as it goes and compares its pages.
func (m *mender) read(ix *Index, i int) {
	f := ix.Frames[i]
	m.stored = append(m.stored[:0], make([]byte, f.Bytes)...)
	m.raw = append(m.raw[:0], make([]byte, f.Pages*PageSize)...)
	n, _ := m.r.ReadAt(m.stored, f.Offset)
	packed, intact := ix.salvage(i, m.stored[:n])
	out, err := m.decoder.DecodeAll(packed, m.raw[:0:len(m.raw)])
	m.whole = err == nil && len(out) == len(m.raw)
	m.sound = m.sound[:0]
	for p := range f.Pages {
		ok := Sum(m.raw[p*PageSize:][:PageSize]) == ix.Hashes[f.First+p]
		m.sound = append(m.sound, ok)
		m.whole = m.whole && ok
	}
	if m.packed = nil; m.whole {
		m.packed = packed
	}
	m.whole = m.whole && intact
}

// frame gives the stored bytes of frame i, made anew where they are damaged.
func (m *mender) frame(ix *Index, i int, copyOf func(Hash, []byte) bool) ([]byte, error) {
	m.read(ix, i)
	if m.whole {
		return m.stored, nil
	}
	f := ix.Frames[i]
	for p, ok := range m.sound {
		page := m.raw[p*PageSize:][:PageSize]
		h := ix.Hashes[f.First+uint32(p)]
		if !ok && (!copyOf(h, page) || Sum(page) != h) {
			return nil, damaged("no copy of page %d, %s", f.First+uint32(p), h)
		}
	}
	want := int(f.Bytes) - ix.seal.overhead()
	encoders, err := m.levels()
	if err != nil {
		return nil, err
	}
	for _, e := range encoders {
		if m.packed == nil {
			if again := e.EncodeAll(m.raw, nil); len(again) == want {
				m.packed = again
			}
		}
	}
	if m.packed != nil {
		border, sealed := ix.seal.close(m.packed, i, int(f.Pages))
		return append(border, sealed...), nil
	}
	return nil, damaged("frame %d compresses to another length than before", i)
}

// Reindex makes the index of a pack from its frames, which say themselves how
// long they are and are told good from bad by zstd's checksum. size is that of
// the damaged file; data that follows the last sound frame is taken for the
// lost index. Whether it is right shows when Mend compares the digest.
func Reindex(r io.ReaderAt, size int64, keys keyring.Keys) (*Index, error) {
	if size < 1 || size > MaxPackBytes {
		return nil, damaged("a pack cannot have %d bytes", size)
	}
	b := make([]byte, size)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	m, err := newMender(r)
	if err != nil {
		return nil, err
	}
	s, err := reseal(b, keys)
	if err != nil {
		return nil, err
	}
	ix := &Index{seal: s}
	for at := int(s.headBytes()); at < len(b); {
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
	if len(ix.Frames) == 0 || len(ix.Hashes) > maxPackPages {
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
	if at > len(b) || at > maxFrameBytes {
		return 0
	}
	return at
}

// FindPages calls found for each of the wanted pages that a pack holds, with
// its bytes, which are compared with the hash before.
func FindPages(r io.ReaderAt, ix *Index, want map[Hash]bool, found func(Hash, []byte)) error {
	m, err := newMender(r)
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
		m.read(ix, i)
		for p, ok := range m.sound {
			if h := ix.Hashes[f.First+uint32(p)]; ok && want[h] {
				found(h, m.raw[p*PageSize:][:PageSize])
			}
		}
	}
	return nil
}

// Where calls visit for every page of the image that lies in pack d: its number
// in the image and its number in the pack.
func (m *Map) Where(d digest.Digest, visit func(page uint64, packPage uint32)) {
	for _, r := range m.Runs {
		if m.Packs[r.Pack] != d {
			continue
		}
		for i := range r.Pages {
			visit(r.First+i, r.PackPage+uint32(i))
		}
	}
}

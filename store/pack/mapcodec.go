package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/keyring"
)

// Layout of a page map, docs/format.md "Page map". Integers little-endian.
const (
	mapMagic       = "COCOPMAP"
	mapVersion     = 1
	mapHeaderBytes = 48
	mapSumBytes    = sha256.Size
	maxMapPayload  = 256 << 20
	minRunBytes    = 4 // four varints
	// zstdMaxRatio: a block of at most 128 KiB takes at least 4 bytes.
	zstdMaxRatio = 128 << 10 / 4
)

// Encode gives the map's file. A map that breaks its invariants is refused.
func (m *Map) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	payload, err := m.payload()
	if err != nil {
		return nil, err
	}
	if len(payload) > maxMapPayload {
		return nil, failure.New(failure.Incompatible, "encode page map: %d runs take %d bytes, at most %d are allowed", len(m.Runs), len(payload), maxMapPayload)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("encode page map: %w", err)
	}
	defer enc.Close()
	le := binary.LittleEndian
	b := append(make([]byte, 0, mapHeaderBytes+len(payload)/2+mapSumBytes), mapMagic...)
	b = le.AppendUint16(b, mapVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, PageSize)
	b = le.AppendUint64(b, m.Bytes)
	b = le.AppendUint32(b, uint32(len(m.Packs)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(len(m.Runs)))
	b = le.AppendUint64(b, uint64(len(payload)))
	b = enc.EncodeAll(payload, b)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// payload is what is compressed: raw digests, then four varints a run.
func (m *Map) payload() ([]byte, error) {
	p := make([]byte, 0, len(m.Packs)*sha256.Size+len(m.Runs)*6)
	for _, d := range m.Packs {
		raw, err := hex.DecodeString(d.Encoded())
		if err != nil {
			return nil, fmt.Errorf("encode page map: pack %s: %w", d, err)
		}
		p = append(p, raw...)
	}
	var end uint64
	var pack, packEnd int64
	for _, r := range m.Runs {
		p = binary.AppendUvarint(p, r.First-end)
		p = binary.AppendUvarint(p, r.Pages)
		p = binary.AppendVarint(p, int64(r.Pack)-pack)
		p = binary.AppendVarint(p, int64(r.PackPage)-packEnd)
		end, pack, packEnd = r.First+r.Pages, int64(r.Pack), int64(r.PackPage)+int64(r.Pages)
	}
	return p, nil
}

// DecodeMap parses a map's file. Errors: failure.Damaged when the bytes are not
// an intact map, failure.Incompatible for a later version and for an encrypted
// map whose key is not among keys ([keyring.Missing]).
func DecodeMap(b []byte, keys keyring.Keys) (*Map, error) {
	body, err := mapBody(b)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint16(body[8:]) == sealedVersion {
		if b, err = openMap(body, keys); err != nil {
			return nil, err
		}
		if body, err = mapBody(b); err != nil {
			return nil, err
		}
	}
	return decodeMapBody(body)
}

// mapBody is what a map's checksum covers, if it is right.
func mapBody(b []byte) ([]byte, error) {
	if len(b) < mapHeaderBytes+mapSumBytes || string(b[:8]) != mapMagic {
		return nil, damaged("page map: %d bytes without the magic of a page map", len(b))
	}
	body := b[:len(b)-mapSumBytes]
	if sum := sha256.Sum256(body); string(sum[:]) != string(b[len(body):]) {
		return nil, damaged("page map: checksum differs")
	}
	return body, nil
}

// decodeMapBody parses a map whose checksum was right: an attacker can make
// that too, so every length is still bounded before it is believed.
func decodeMapBody(b []byte) (*Map, error) {
	le := binary.LittleEndian
	if v := le.Uint16(b[8:]); v != mapVersion {
		return nil, failure.New(failure.Incompatible, "page map: version %d, this program reads %d", v, mapVersion)
	}
	if le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != PageSize || le.Uint32(b[28:]) != 0 {
		return nil, damaged("page map: flags or page size unknown")
	}
	m := &Map{Bytes: le.Uint64(b[16:])}
	packs, runs, length := uint64(le.Uint32(b[24:])), le.Uint64(b[32:]), le.Uint64(b[40:])
	stored := b[mapHeaderBytes:]
	switch {
	case m.Bytes > MaxImageBytes || packs > maxMapPacks || runs > pagesOf(m.Bytes):
		return nil, damaged("page map: %d runs in %d packs for %d bytes", runs, packs, m.Bytes)
	case length > maxMapPayload || length > uint64(len(stored))*zstdMaxRatio || length < packs*sha256.Size || runs > (length-packs*sha256.Size)/minRunBytes:
		return nil, damaged("page map: %d runs in %d bytes, %d compressed", runs, length, len(stored))
	}
	payload, err := inflate(stored, int(length))
	if err != nil {
		return nil, damaged("page map: %w", err)
	}
	if err := m.decodePayload(payload, int(packs), int(runs)); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// inflate decodes zstd data of exactly length bytes.
func inflate(stored []byte, length int) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxMapPayload), zstd.WithDecoderMaxWindow(maxMapPayload))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	out, err := dec.DecodeAll(stored, make([]byte, 0, length))
	if err != nil {
		return nil, err
	}
	if len(out) != length {
		return nil, fmt.Errorf("%d bytes where %d are announced", len(out), length)
	}
	return out, nil
}

// decodePayload fills Packs and Runs; both counts are bounded by len(p).
func (m *Map) decodePayload(p []byte, packs, runs int) error {
	m.Packs = make([]digest.Digest, packs)
	for i := range m.Packs {
		m.Packs[i] = digest.NewDigestFromBytes(digest.SHA256, p[:sha256.Size])
		p = p[sha256.Size:]
	}
	m.Runs = make([]Run, runs)
	v := varints{rest: p}
	var end uint64
	var pack, packEnd int64
	for i := range m.Runs {
		gap, pages := v.uint(), v.uint()
		packStep, pageStep := v.int(), v.int()
		if v.bad || gap > MaxImageBytes || pages > maxPackPages || !small(packStep) || !small(pageStep) {
			return damaged("page map: run %d cannot be read", i)
		}
		pack += packStep
		packPage := packEnd + pageStep
		if pack < 0 || pack >= int64(packs) || packPage < 0 || packPage > maxPackPages {
			return damaged("page map: run %d names page %d of pack %d", i, packPage, pack)
		}
		m.Runs[i] = Run{First: end + gap, Pages: pages, Pack: uint32(pack), PackPage: uint32(packPage)}
		end, packEnd = end+gap+pages, packPage+int64(pages)
		if end > MaxImageBytes {
			return damaged("page map: run %d ends at page %d", i, end)
		}
	}
	if len(v.rest) != 0 {
		return damaged("page map: %d bytes after the last run", len(v.rest))
	}
	return nil
}

// small keeps sums of two steps far from overflow.
func small(step int64) bool { return step > -1<<32 && step < 1<<32 }

// varints reads numbers off the front of rest; bad stays set after a failure.
type varints struct {
	rest []byte
	bad  bool
}

func (v *varints) uint() uint64 {
	x, n := binary.Uvarint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

func (v *varints) int() int64 {
	x, n := binary.Varint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

package pack

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
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
	// runsAhead are made room for before one is read.
	runsAhead = 1 << 20
	// maxMapWindow is twice the window that Encode's level has.
	maxMapWindow = 8 << 20
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
func DecodeMap(ctx context.Context, b []byte, keys keyring.Keys) (*Map, error) {
	r, err := openMapReader(b, keys)
	if err != nil {
		return nil, err
	}
	defer r.close()
	m := &Map{Bytes: r.head.bytes, Packs: r.packs, Runs: make([]Run, 0, min(r.head.runs, runsAhead))}
	err = r.each(ctx, func(run Run) error {
		if n := len(m.Runs); n == cap(m.Runs) {
			m.Runs = slices.Grow(m.Runs, min(n, int(r.head.runs)-n)) // twice as many
		}
		m.Runs = append(m.Runs, run)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// openMapReader checks the sum and opens what may be encrypted.
func openMapReader(b []byte, keys keyring.Keys) (*mapReader, error) {
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
	return newMapReader(body)
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

package pack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

var update = flag.Bool("update", false, "write the golden pack and map anew")

// smallImage has every case of the formats: zeros, a repeat, a short last page.
func smallImage() []byte {
	var b []byte
	for _, colour := range []byte{1, 0, 2, 1, 3, 0, 0, 4} {
		b = append(b, palette(colour)...)
	}
	return b[:len(b)-100]
}

// TestGoldenPackAndMap holds the formats still: files written once must be
// readable for ever.
func TestGoldenPackAndMap(t *testing.T) {
	if *update {
		s := newShelf()
		m, _ := save(t, s, bytes.NewReader(smallImage()), int64(len(smallImage())), nil)
		enc, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		writeGolden(t, "v1.map", enc)
		writeGolden(t, "v1.pack", s.packs[m.Packs[0]])
	}
	packed, enc := readGolden(t, "v1.pack"), readGolden(t, "v1.map")
	m, err := pack.DecodeMap(t.Context(), enc, keyring.None())
	if err != nil {
		t.Fatal(err)
	}
	want := &pack.Map{
		Bytes: uint64(len(smallImage())),
		Packs: []digest.Digest{digest.FromBytes(packed)},
		Runs:  []pack.Run{{0, 1, 0, 0}, {2, 1, 0, 1}, {3, 1, 0, 0}, {4, 1, 0, 2}, {7, 1, 0, 3}},
	}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
	if zero, stored := m.Stat(); zero != 3 || stored != 5 {
		t.Errorf("Stat gives %d, %d", zero, stored)
	}
	s := newShelf()
	s.packs[m.Packs[0]] = packed
	if !bytes.Equal(load(t, s, m), smallImage()) {
		t.Error("golden image differs")
	}
	checkGoldenLayout(t, packed)
}

// checkGoldenLayout reads the pack's end by the offsets of docs/format.md.
func checkGoldenLayout(t *testing.T, packed []byte) {
	t.Helper()
	le := binary.LittleEndian
	tail := packed[len(packed)-64:]
	at := le.Uint64(tail)
	got := []any{
		string(tail[56:]), le.Uint32(tail[8:]), le.Uint32(tail[12:]), le.Uint32(tail[16:]), le.Uint16(tail[20:]), le.Uint16(tail[22:]),
		le.Uint32(packed), le.Uint32(packed[at:]), le.Uint32(packed[at+4:]), le.Uint32(packed[at+8:]), le.Uint16(packed[at+12:]),
		pack.Hash(packed[at+16 : at+32]), [32]byte(tail[24:56]),
	}
	size := uint32(len(packed))
	want := []any{
		"COCOPACK", uint32(1), uint32(4), uint32(4096), uint16(1), uint16(0),
		uint32(0xFD2FB528), uint32(0x184D2A5C), size - uint32(at) - 8, uint32(at), uint16(4),
		pack.Sum(palette(1)), sha256.Sum256(packed[at : size-40]),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeGolden(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestEveryFlippedBitIsFoundOrHarmless: with one bit of a pack flipped, the
// image either reads back right or fails as damaged. It never reads back wrong.
func TestEveryFlippedBitIsFoundOrHarmless(t *testing.T) {
	packed, enc := readGolden(t, "v1.pack"), readGolden(t, "v1.map")
	m, err := pack.DecodeMap(t.Context(), enc, keyring.None())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := range packed {
		bad := bytes.Clone(packed)
		bad[at] ^= 1 << (at % 8)
		got, err := tryLoad(t, m, bad)
		switch {
		case err == nil && !bytes.Equal(got, smallImage()):
			t.Fatalf("byte %d flipped: wrong pages", at)
		case err != nil && !errors.Is(err, failure.Damaged):
			t.Fatalf("byte %d flipped: %v is not damage", at, err)
		case err != nil:
			found++
		}
	}
	if found < len(packed)*9/10 {
		t.Errorf("only %d of %d flips were found", found, len(packed))
	}
}

func TestEveryFlippedBitOfAMapIsFound(t *testing.T) {
	enc := readGolden(t, "v1.map")
	for at := range enc {
		for bit := range 8 {
			bad := bytes.Clone(enc)
			bad[at] ^= 1 << bit
			if _, err := pack.DecodeMap(t.Context(), bad, keyring.None()); !errors.Is(err, failure.Damaged) {
				t.Fatalf("byte %d bit %d flipped: %v", at, bit, err)
			}
		}
	}
}

func TestTruncatedFilesAreDamaged(t *testing.T) {
	packed, enc := readGolden(t, "v1.pack"), readGolden(t, "v1.map")
	m, err := pack.DecodeMap(t.Context(), enc, keyring.None())
	if err != nil {
		t.Fatal(err)
	}
	for n := range enc {
		if _, err := pack.DecodeMap(t.Context(), enc[:n], keyring.None()); !errors.Is(err, failure.Damaged) {
			t.Fatalf("map cut at %d: %v", n, err)
		}
	}
	for n := 0; n < len(packed); n += 7 {
		if _, err := tryLoad(t, m, packed[:n]); !errors.Is(err, failure.Damaged) {
			t.Fatalf("pack cut at %d: %v", n, err)
		}
	}
}

// tryLoad expands m with one pack of the given bytes, and reads it by ReadAt
// too: both must agree.
func tryLoad(t testing.TB, m *pack.Map, packed []byte) ([]byte, error) {
	t.Helper()
	return tryLoadWith(t, m, packed, nil)
}

func tryLoadWith(t testing.TB, m *pack.Map, packed []byte, keys *keyring.Ring) ([]byte, error) {
	t.Helper()
	s := newShelf()
	s.ring = keys
	s.packs[m.Packs[0]] = packed
	im, err := pack.OpenImage(t.Context(), m, s)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	out := make(memoryTarget, m.Bytes)
	err = im.WriteTo(t.Context(), out, 1, nil)
	part := make([]byte, m.Bytes)
	if _, rerr := im.ReadAt(part, 0); (rerr == nil) != (err == nil) || err == nil && !bytes.Equal(part, out) {
		t.Fatalf("WriteTo gives %v, ReadAt %v", err, rerr)
	}
	return out, err
}

// TestForgedMapsAreRefused: a right checksum is no reason to believe a map.
func TestForgedMapsAreRefused(t *testing.T) {
	packed := digest.FromString("x")
	for name, m := range map[string]pack.Map{
		"overlap":        {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{0, 2, 0, 0}, {1, 1, 0, 9}}},
		"beyond image":   {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{3, 2, 0, 0}}},
		"empty run":      {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{3, 0, 0, 0}}},
		"unknown pack":   {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{0, 1, 1, 0}}},
		"zero pack":      {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{0, 1, pack.ZeroPack, 0}}},
		"split run":      {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{0, 1, 0, 0}, {1, 1, 0, 1}}},
		"far page":       {4 * pack.PageSize, []digest.Digest{packed}, []pack.Run{{0, 1, 0, pack.MaxPackPages}}},
		"huge image":     {pack.MaxImageBytes + 1, nil, nil},
		"strange digest": {pack.PageSize, []digest.Digest{"sha512:00"}, nil},
	} {
		if _, err := m.Encode(); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: Encode gives %v", name, err)
		}
		im, err := pack.OpenImage(t.Context(), &m, newShelf())
		if !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: OpenImage gives %v, %v", name, im, err)
		}
	}
}

// TestMapMayNotAskForMoreThanAPackHas: the pack is intact, the map is not.
func TestMapMayNotAskForMoreThanAPackHas(t *testing.T) {
	packed := readGolden(t, "v1.pack")
	m := &pack.Map{Bytes: 9 * pack.PageSize, Packs: []digest.Digest{digest.FromBytes(packed)}, Runs: []pack.Run{{0, 5, 0, 0}}}
	if _, err := tryLoad(t, m, packed); !errors.Is(err, failure.Damaged) {
		t.Error(err)
	}
}

// seal gives forged bytes a right checksum, so that fuzzing goes deep.
func sealIndex(b []byte) []byte {
	if len(b) < pack.PackTailBytes {
		return b
	}
	b = bytes.Clone(b)
	tail := b[len(b)-pack.PackTailBytes:]
	at := binary.LittleEndian.Uint64(tail)
	if at < uint64(len(b)-pack.PackTailBytes) {
		sum := sha256.Sum256(b[at : len(b)-pack.PackTailBytes+pack.TailSumAt])
		copy(tail[pack.TailSumAt:], sum[:])
	}
	copy(tail[pack.TailMagicAt:], pack.PackMagic)
	return b
}

func FuzzDecodeMap(f *testing.F) {
	enc := readGolden(f, "v1.map")
	f.Add(enc)
	f.Add(enc[:len(enc)-40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= pack.MapSumBytes {
			sum := sha256.Sum256(b[:len(b)-pack.MapSumBytes])
			b = append(bytes.Clone(b[:len(b)-pack.MapSumBytes]), sum[:]...)
		}
		m, err := pack.DecodeMap(t.Context(), b, keyring.None())
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		m2, err := pack.DecodeMap(t.Context(), again, keyring.None())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, m2); d != "" {
			t.Error(d)
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	f.Add(readGolden(f, "v1.pack"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = sealIndex(b)
		ix, err := pack.ReadIndex(bytes.NewReader(b), int64(len(b)), keyring.None())
		if err != nil {
			return
		}
		last := ix.Frames[len(ix.Frames)-1]
		if int(last.First+last.Pages) != len(ix.Hashes) || last.Offset+int64(last.Bytes) > int64(len(b)) {
			t.Errorf("index is not consistent: %+v of %d pages", last, len(ix.Hashes))
		}
	})
}

// FuzzImage: whatever pack and map are, a page that comes out has the hash
// that the pack's index says.
func FuzzImage(f *testing.F) {
	f.Add(readGolden(f, "v1.pack"), uint16(0), uint16(4), uint16(0))
	f.Add(readGolden(f, "v1.pack"), uint16(3), uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, packed []byte, first, pages, packPage uint16) {
		packed = sealIndex(packed)
		m := &pack.Map{Bytes: 64 * pack.PageSize, Packs: []digest.Digest{digest.FromString("x")}, Runs: []pack.Run{{uint64(first), uint64(pages), 0, uint32(packPage)}}}
		out, err := tryLoad(t, m, packed)
		if err != nil {
			return
		}
		ix, err := pack.ReadIndex(bytes.NewReader(packed), int64(len(packed)), keyring.None())
		if err != nil {
			t.Fatal(err)
		}
		for i := range int(pages) {
			at := (int(first) + i) * pack.PageSize
			if pack.Sum(out[at:at+pack.PageSize]) != ix.Hashes[int(packPage)+i] {
				t.Fatalf("page %d came out with another hash", i)
			}
		}
	})
}

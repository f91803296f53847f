package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// testKey is key n of the tests; nobody has anything to hide under it.
func testKey(n byte) *keyring.Key { return keyring.FromSecret([32]byte{n}) }

// lockedShelf opens packs with the given keys.
func lockedShelf(keys ...*keyring.Key) *shelf {
	s := newShelf()
	s.ring = keyring.FromKeys(keys...)
	return s
}

// saveFor stores an image under a key.
func saveFor(t testing.TB, s packer.Sink, k *keyring.Key, b []byte, parent *pack.Image) (*pack.Map, packer.Stats) {
	t.Helper()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{Key: k})
	defer w.Abort()
	iw := w.Image(uint64(len(b)), parent)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(b), nil); err != nil {
		t.Fatal(err)
	}
	return finish(t, w, iw)
}

// TestGoldenEncryptedPackAndMap holds the encrypted formats still.
func TestGoldenEncryptedPackAndMap(t *testing.T) {
	k := testKey(7)
	packed, enc := readGolden(t, "v2.pack"), readGolden(t, "v2.map")
	m, err := pack.DecodeMap(t.Context(), enc, keyring.FromKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	s := lockedShelf(testKey(1), k)
	s.packs[digest.FromBytes(packed)] = packed
	if !bytes.Equal(load(t, s, m), smallImage()) {
		t.Error("golden image differs")
	}
	if again, err := m.EncodeFor(k); err != nil || !bytes.Equal(again, enc) {
		t.Errorf("the same map under the same key is another file (%v)", err)
	}
	le := binary.LittleEndian
	tail := packed[len(packed)-64:]
	at := le.Uint64(tail)
	id := testKey(7).ID()
	got := []any{string(packed[:8]), string(packed[8:16]), string(packed[16:48]), string(packed[at : at+32]), string(tail[8:16]), le.Uint32(tail[16:]), le.Uint16(tail[20:]), string(tail[56:]), len(packed) - int(at)}
	salt := string(bytes.Repeat([]byte{0x5a}, 32))
	want := []any{"COCOPACK", string(id[:]), salt, salt, string(id[:]), uint32(4096), uint16(2), "COCOPACK", 32 + 8 + 8 + 4*16 + 16 + 64}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := []any{string(enc[:8]), le.Uint16(enc[8:]), string(enc[16:24]), string(enc[32:40])}; !cmp.Equal(got, []any{"COCOPMAP", uint16(2), "COCOSEAL", string(id[:])}) {
		t.Errorf("map begins %q", got)
	}
}

// TestNothingOfAPageStandsInAnEncryptedPack: neither bytes of pages nor their
// hashes, which would tell who knows a page that it is there.
func TestNothingOfAPageStandsInAnEncryptedPack(t *testing.T) {
	k := testKey(7)
	secret := bytes.Repeat([]byte("a secret of the guest; "), 1000)[:4*pack.PageSize]
	s := lockedShelf(k)
	m, _ := saveFor(t, s, k, secret, nil)
	enc, err := m.EncodeFor(k)
	if err != nil {
		t.Fatal(err)
	}
	packed := s.packs[m.Packs[0]]
	raw := []byte(m.Packs[0].Encoded())
	for p := 0; p < len(secret); p += pack.PageSize {
		h := pack.Sum(secret[p : p+pack.PageSize])
		for _, file := range [][]byte{packed, enc} {
			if bytes.Contains(file, h[:8]) || bytes.Contains(file, []byte("secret")) || bytes.Contains(file, raw) || bytes.Contains(file, pack.ZstdMagic) {
				t.Fatal("content stands in the clear")
			}
		}
	}
	if !bytes.Equal(load(t, s, m), secret) {
		t.Error("the image differs")
	}
}

// TestTwoPacksOfTheSamePagesShareNothing: the salt is drawn anew for each pack.
func TestTwoPacksOfTheSamePagesShareNothing(t *testing.T) {
	k := testKey(7)
	s := lockedShelf(k)
	m1, _ := saveFor(t, s, k, smallImage(), nil)
	m2, _ := saveFor(t, s, k, smallImage(), nil)
	a, b := s.packs[m1.Packs[0]], s.packs[m2.Packs[0]]
	if m1.Packs[0] == m2.Packs[0] || len(a) != len(b) {
		t.Fatalf("packs %s and %s of %d and %d bytes", m1.Packs[0], m2.Packs[0], len(a), len(b))
	}
	equal := 0
	for i := 48; i < len(a)-64; i++ {
		if a[i] == b[i] {
			equal++
		}
	}
	if equal > (len(a)-112)/64 {
		t.Errorf("%d of %d bytes are equal", equal, len(a)-112)
	}
}

// TestPagesAreSharedWithinOneKeyOnly: never across keys, nor between encrypted
// and plain packs, whoever the parent is.
func TestPagesAreSharedWithinOneKeyOnly(t *testing.T) {
	first, second := testKey(1), testKey(2)
	s := lockedShelf(first, second)
	for _, c := range []struct {
		name     string
		old, new *keyring.Key
		reuse    bool
	}{
		{"one key", first, first, true},
		{"another key", first, second, false},
		{"encrypted, then plain", first, nil, false},
		{"plain, then encrypted", nil, first, false},
		{"plain", nil, nil, true},
	} {
		m, _ := saveFor(t, s, c.old, smallImage(), nil)
		parent := open(t, s, m)
		again, st := saveFor(t, s, c.new, smallImage(), parent)
		if got := st.PagesNew == 0; got != c.reuse {
			t.Errorf("%s: pages are reused: %v", c.name, got)
		}
		if !bytes.Equal(load(t, s, again), smallImage()) {
			t.Errorf("%s: the image differs", c.name)
		}
		known, err := packer.OpenKnown(t.Context(), m.Packs[0], s)
		if err != nil {
			t.Fatal(err)
		}
		w := packer.NewWriter(t.Context(), s, packer.WriterOptions{Key: c.new, Family: []packer.Known{known}})
		iw := w.Image(uint64(len(smallImage())), nil)
		if err := iw.ReadFrom(t.Context(), bytes.NewReader(smallImage()), nil); err != nil {
			t.Fatal(err)
		}
		if _, st := finish(t, w, iw); (st.PagesNew == 0) != c.reuse {
			t.Errorf("%s: of a family, pages are reused: %v", c.name, st.PagesNew == 0)
		}
	}
}

// TestEncryptedImagesOfManyFramesReadBack, generation upon generation.
func TestEncryptedImagesOfManyFramesReadBack(t *testing.T) {
	k := testKey(3)
	s := lockedShelf(k)
	rng := rand.New(rand.NewPCG(8, 9))
	b := make([]byte, 900*pack.PageSize)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	var parent *pack.Image
	for range 6 {
		for range 200 {
			b[rng.IntN(len(b))]++
		}
		m, _ := saveFor(t, s, k, b, parent)
		if !bytes.Equal(load(t, s, m), b) {
			t.Fatal("the image differs")
		}
		parent = open(t, s, m)
		part := make([]byte, 3*pack.PageSize)
		if _, err := parent.ReadAt(part, 300*pack.PageSize+5); err != nil || !bytes.Equal(part, b[300*pack.PageSize+5:][:len(part)]) {
			t.Fatalf("a part differs (%v)", err)
		}
	}
}

// TestAMissingKeyIsNoDamage: the error names the key.
func TestAMissingKeyIsNoDamage(t *testing.T) {
	packed, enc := readGolden(t, "v2.pack"), readGolden(t, "v2.map")
	for _, keys := range []*keyring.Ring{nil, keyring.FromKeys(testKey(1))} {
		_, mapErr := pack.DecodeMap(t.Context(), enc, keys)
		_, packErr := pack.ReadIndex(bytes.NewReader(packed), int64(len(packed)), keys)
		_, reindexErr := pack.Reindex(bytes.NewReader(packed), int64(len(packed)), keys)
		for _, err := range []error{mapErr, packErr, reindexErr} {
			if !keyring.IsMissing(err) || !errors.Is(err, failure.Incompatible) || errors.Is(err, failure.Damaged) {
				t.Errorf("%v is not a missing key", err)
			}
		}
	}
}

func TestEveryFlippedBitOfAnEncryptedPackIsFoundOrHarmless(t *testing.T) {
	keys := keyring.FromKeys(testKey(7))
	packed, enc := readGolden(t, "v2.pack"), readGolden(t, "v2.map")
	m, err := pack.DecodeMap(t.Context(), enc, keys)
	if err != nil {
		t.Fatal(err)
	}
	harmless := 0
	for at := range packed {
		bad := bytes.Clone(packed)
		bad[at] ^= 1 << (at % 8)
		got, err := tryLoadWith(t, m, bad, keys)
		switch {
		case err == nil && !bytes.Equal(got, smallImage()):
			t.Fatalf("byte %d flipped: wrong pages", at)
		case err == nil:
			harmless++
		case !errors.Is(err, failure.Damaged):
			t.Fatalf("byte %d flipped: %v is not damage", at, err)
		}
	}
	// The head and the border of the frame stand twice; reading uses the other.
	if harmless != pack.SealHeadBytes+pack.BorderBytes {
		t.Errorf("%d flips went unseen", harmless)
	}
	for at := range enc {
		bad := bytes.Clone(enc)
		bad[at] ^= 1 << (at % 8)
		if _, err := pack.DecodeMap(t.Context(), bad, keys); !errors.Is(err, failure.Damaged) {
			t.Fatalf("byte %d of the map flipped: %v", at, err)
		}
	}
	for n := 0; n < len(packed); n += 7 {
		if _, err := tryLoadWith(t, m, packed[:n], keys); !errors.Is(err, failure.Damaged) {
			t.Fatalf("pack cut at %d: %v", n, err)
		}
	}
}

// TestFramesOfAnEncryptedPackCannotBeSwapped: their number is bound to them.
func TestFramesOfAnEncryptedPackCannotBeSwapped(t *testing.T) {
	k := testKey(7)
	s := lockedShelf(k)
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 2*pack.FramePages*pack.PageSize)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	m, _ := saveFor(t, s, k, b, nil)
	packed := s.packs[m.Packs[0]]
	ix, err := pack.ReadIndex(bytes.NewReader(packed), int64(len(packed)), s)
	if err != nil {
		t.Fatal(err)
	}
	f0, f1 := ix.Frames[0], ix.Frames[1]
	if f0.Bytes != f1.Bytes {
		t.Fatalf("frames of noise have %d and %d bytes", f0.Bytes, f1.Bytes)
	}
	swapped := bytes.Clone(packed)
	copy(swapped[f0.Offset:], packed[f1.Offset:][:f1.Bytes])
	if _, err := ix.Open(0, swapped[f0.Offset:][:f0.Bytes]); !errors.Is(err, failure.Damaged) {
		t.Errorf("frame 1 in the place of frame 0: %v", err)
	}
}

// TestEncryptedPacksAreMendedByteForByte: whatever was hit, as long as the pages
// of the frame can be had; without a copy, from what CTR still gives.
func TestEncryptedPacksAreMendedByteForByte(t *testing.T) {
	k := testKey(7)
	s := lockedShelf(k)
	var b []byte
	for p := range 600 {
		page := palette(byte(p%11 + 1))
		binary.LittleEndian.PutUint32(page[64:], uint32(p))
		b = append(b, page...)
	}
	m, _ := saveFor(t, s, k, b, nil)
	whole := s.packs[m.Packs[0]]
	good, err := pack.ReadIndex(bytes.NewReader(whole), int64(len(whole)), s)
	if err != nil {
		t.Fatal(err)
	}
	pages := map[pack.Hash][]byte{}
	for p := 0; p < len(b); p += pack.PageSize {
		pages[pack.Sum(b[p:p+pack.PageSize])] = b[p : p+pack.PageSize]
	}
	f := good.Frames[1]
	for name, at := range map[string]int64{
		"salt of the head":  20,
		"border of a frame": f.Offset + 2,
		"frame":             f.Offset + int64(f.Bytes)/2,
		"tag of a frame":    f.Offset + int64(f.Bytes) - 1,
		"salt of the index": f.Offset + int64(f.Bytes) + int64(good.Frames[2].Bytes) + 3,
		"index":             int64(len(whole)) - 200,
		"tail":              int64(len(whole)) - 20,
	} {
		bad := bytes.Clone(whole)
		bad[at] ^= 4
		ix, err := pack.ReadIndex(bytes.NewReader(bad), int64(len(bad)), s)
		if errors.Is(err, failure.Damaged) {
			ix, err = pack.Reindex(bytes.NewReader(bad), int64(len(bad)), s)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := pack.Rebuild(io.Discard, bytes.NewReader(bad), ix, m.Packs[0], func(pack.Hash, []byte) bool { return false }); name != "frame" && err != nil {
			t.Errorf("%s: without copies: %v", name, err)
		}
		var out bytes.Buffer
		err = pack.Rebuild(&out, bytes.NewReader(bad), ix, m.Packs[0], func(h pack.Hash, page []byte) bool { return copy(page, pages[h]) > 0 })
		if err != nil || !bytes.Equal(out.Bytes(), whole) {
			t.Errorf("%s: rebuilt as something else (%v)", name, err)
		}
	}
}

// TestAPackThatCannotBeMendedWritesNothing: what would be sealed under a nonce
// of before is not the same, and must not be seen.
func TestAPackThatCannotBeMendedWritesNothing(t *testing.T) {
	k := testKey(7)
	s := lockedShelf(k)
	m, _ := saveFor(t, s, k, smallImage(), nil)
	packed := s.packs[m.Packs[0]]
	ix, err := pack.ReadIndex(bytes.NewReader(packed), int64(len(packed)), s)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = pack.Rebuild(&out, bytes.NewReader(packed), ix, digest.FromString("another"), func(pack.Hash, []byte) bool { return false })
	if !errors.Is(err, failure.Damaged) || out.Len() > 0 {
		t.Errorf("%d bytes were written (%v)", out.Len(), err)
	}
}

// FuzzReindex: any bytes at all, with a key at hand.
func FuzzReindex(f *testing.F) {
	keys := keyring.FromKeys(testKey(7))
	f.Add(readGolden(f, "v1.pack"))
	f.Add(readGolden(f, "v2.pack"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ix, err := pack.Reindex(bytes.NewReader(b), int64(len(b)), keys)
		if err != nil {
			return
		}
		last := ix.Frames[len(ix.Frames)-1]
		if int(last.First+last.Pages) != len(ix.Hashes) || last.Offset+int64(last.Bytes) > int64(len(b)) {
			t.Errorf("index is not consistent: %+v of %d pages", last, len(ix.Hashes))
		}
	})
}

package pack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// FuzzSealedMap: whoever has the key could still have sealed a wrong map. What is
// in it is read as it would be without encryption, once.
func FuzzSealedMap(f *testing.F) {
	k := testKey(7)
	keys := keyring.FromKeys(k)
	f.Add(readGolden(f, "v1.map"))
	f.Add(readGolden(f, "v2.map"))
	f.Fuzz(func(t *testing.T, inner []byte) {
		inner = resum(inner)
		head := binary.LittleEndian.AppendUint16([]byte(pack.MapMagic), pack.SealedVersion)
		head = binary.LittleEndian.AppendUint32(append(head, 0, 0), pack.PageSize)
		got, err := pack.DecodeMap(t.Context(), resum(append(append(head, k.Seal(pack.MapKind, inner)...), make([]byte, pack.MapSumBytes)...)), keys)
		want, werr := pack.DecodeMap(t.Context(), inner, keyring.None())
		if (err == nil) != (werr == nil) {
			t.Fatalf("sealed %v, plain %v", err, werr)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// resum gives a map the checksum that its other bytes have.
func resum(b []byte) []byte {
	if len(b) < pack.MapSumBytes {
		return b
	}
	body := bytes.Clone(b[:len(b)-pack.MapSumBytes])
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

// FuzzRebuild: a damaged pack is rebuilt as the pack that it was, or nothing.
func FuzzRebuild(f *testing.F) {
	keys := keyring.FromKeys(testKey(7))
	whole := [][]byte{readGolden(f, "v1.pack"), readGolden(f, "v2.pack")}
	pages := map[pack.Hash][]byte{}
	for _, p := range whole {
		f.Add(p, true)
		f.Add(p[:len(p)-40], false)
		ix, err := pack.ReadIndex(bytes.NewReader(p), int64(len(p)), keys)
		if err != nil {
			f.Fatal(err)
		}
		want := map[pack.Hash]bool{}
		for _, h := range ix.Hashes {
			want[h] = true
		}
		if err := pack.FindPages(bytes.NewReader(p), ix, want, func(h pack.Hash, page []byte) { pages[h] = bytes.Clone(page) }); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, copies bool) {
		r := bytes.NewReader(b)
		ix, err := pack.ReadIndex(r, int64(len(b)), keys)
		if err != nil {
			ix, err = pack.Reindex(r, int64(len(b)), keys)
		}
		if err != nil {
			return
		}
		lost, err := pack.Damages(r, ix)
		if err != nil {
			t.Fatal(err)
		}
		copyOf := func(h pack.Hash, page []byte) bool { return copies && copy(page, pages[h]) > 0 }
		for _, p := range whole {
			var out bytes.Buffer
			if pack.Rebuild(&out, r, ix, digest.FromBytes(p), copyOf) == nil && !bytes.Equal(out.Bytes(), p) {
				t.Error("it was rebuilt as another pack")
			}
		}
		if err := pack.Rebuild(io.Discard, r, ix, digest.FromBytes(b), copyOf); err == nil && len(lost) > 0 {
			t.Errorf("%d pages are lost of a pack that is as it should be", len(lost))
		}
	})
}

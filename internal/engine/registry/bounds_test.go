package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// bombMap is a page map of a few kilobytes that keeps every rule of the format
// and has so many runs, each of the first page of a pack.
func bombMap(t *testing.T, pack digest.Digest, runs int) []byte {
	t.Helper()
	payload := append(must(hex.DecodeString(pack.Encoded())), 1, 1, 0, 0)
	payload = append(payload, bytes.Repeat([]byte{1, 1, 0, 1}, runs-1)...)
	le := binary.LittleEndian
	b := le.AppendUint16([]byte("COCOPMAP"), 1)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, 4096)
	b = le.AppendUint64(b, uint64(2*runs)*4096)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(runs))
	b = le.AppendUint64(b, uint64(len(payload)))
	b = must(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))).EncodeAll(payload, b)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func layerOf(f *forgery, media string) *ocispec.Descriptor {
	f.t.Helper()
	for i, l := range f.manifest.Layers {
		if l.MediaType == media {
			return &f.manifest.Layers[i]
		}
	}
	f.t.Fatalf("no %s", media)
	return nil
}

// TestNobodyElseSaysHowMuchWorkIsDone: snapshots that keep the rules of every
// format and would cost more than what came of them is worth.
func TestNobodyElseSaysHowMuchWorkIsDone(t *testing.T) {
	replace := func(f *forgery, media string, b []byte) digest.Digest {
		l := layerOf(f, media)
		*l = f.blob(media, b)
		return l.Digest
	}
	for name, forge := range map[string]func(*forgery){
		"a page map of more runs than can be had": func(f *forgery) {
			const runs = 1<<24 + 1<<20
			m := &f.spec.Memory[0]
			m.Map = replace(f, store.MediaTypePageMap, bombMap(t, layerOf(f, store.MediaTypePack).Digest, runs))
			m.Bytes = 2 * runs * 4096
		},
		"many page maps that together have more": func(f *forgery) {
			const runs, maps = 1 << 20, 20
			pack := layerOf(f, store.MediaTypePack).Digest
			f.spec.Memory = nil
			for i := range maps {
				d := f.blob(store.MediaTypePageMap, bombMap(t, pack, runs+i))
				f.manifest.Layers = append(f.manifest.Layers, d)
				f.spec.Memory = append(f.spec.Memory, store.MemoryRange{GPA: uint64(i) << 40, Bytes: uint64(runs+i) * 2 * 4096, Map: d.Digest})
			}
		},
		"a page map longer than its RAM": func(f *forgery) { f.spec.Memory[0].Bytes -= 4096 },
		"more RAM ranges than any VM has": func(f *forgery) {
			for i := range 2000 {
				m := f.spec.Memory[0]
				m.GPA = uint64(i) << 40
				f.spec.Memory = append(f.spec.Memory, m)
			}
		},
		"a huge config of the VMM": func(f *forgery) {
			f.spec.CHConfig = replace(f, store.MediaTypeCHConfig, append([]byte(`{"disks":[`), append(bytes.Repeat([]byte("{},"), 2<<20), "{}]}"...)...))
		},
		"a huge state of the VMM": func(f *forgery) {
			f.spec.CHState = replace(f, store.MediaTypeCHState, bytes.Repeat([]byte(" "), 65<<20))
		},
		"more layers than a TiB has": func(f *forgery) {
			pack := *layerOf(f, store.MediaTypePack)
			for range 1 << 16 {
				f.manifest.Layers = append(f.manifest.Layers, pack)
			}
		},
		"a pack longer than packs are": func(f *forgery) { layerOf(f, store.MediaTypePack).Size = 1 << 30 },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newMover(t), newMover(t)
			publish(t, a, "first", nil)
			f := openLayout(t, exported(t, a, "first"))
			forge(f)
			f.save()
			_, err := b.ImportDir(t.Context(), f.dir, "", PullOptions{})
			if !errors.Is(err, failure.Damaged) {
				t.Fatalf("%v, want damaged", err)
			}
			nothingLeft(t, b)
		})
	}
}

package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

func images(t testing.TB) (*Store, *store.Lease) {
	t.Helper()
	st, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := st.Lease(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	return New(st), l
}

func file(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// small makes a version 3 qcow2 with 64 KiB clusters: header, L1, L2, data. The
// disk has four clusters, of which number 2 holds the byte 'x'.
func small() []byte {
	const cluster = 1 << 16
	b := make([]byte, 4*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 4*cluster)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], cluster)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[cluster:], 1<<63|2*cluster)
	be.PutUint64(b[2*cluster+2*8:], 1<<63|3*cluster)
	for i := range cluster {
		b[3*cluster+i] = 'x'
	}
	return b
}

func TestQcow2BecomesRaw(t *testing.T) {
	s, l := images(t)
	rec, err := s.Import(t.Context(), l, file(t, small()), "disk")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.Path(rec.ID))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4<<16)
	copy(want[2<<16:], bytes.Repeat([]byte{'x'}, 1<<16))
	if !bytes.Equal(got, want) {
		t.Error("the raw disk differs from what the qcow2 holds")
	}
	if d := digest.FromBytes(want); rec.ID != d {
		t.Errorf("blob %s, want %s", rec.ID, d)
	}
}

func TestImportRefuses(t *testing.T) {
	patch := func(at int, b ...byte) []byte {
		img := small()
		copy(img[at:], b)
		return img
	}
	aliased := small()
	for i := range 4 {
		binary.BigEndian.PutUint64(aliased[2<<16+8*i:], 1<<63|3<<16)
	}
	binary.BigEndian.PutUint64(aliased[24:], 64<<16)
	for i := range 64 {
		binary.BigEndian.PutUint64(aliased[2<<16+8*i:], 1<<63|3<<16)
	}
	unknownCompression := patch(104, 9)
	unknownCompression[79] = compressionTold
	tableTwice := patch(24, 0, 0, 0, 0, 0x40) // 1 GiB: two tables
	tableTwice[39] = 2
	copy(tableTwice[1<<16+8:], tableTwice[1<<16:1<<16+8])
	for _, c := range []struct {
		name  string
		image []byte
		class error
	}{
		{"empty", nil, failure.Usage},
		{"odd length", []byte("hello"), failure.Usage},
		{"qcow2 cut in its header", small()[:40], failure.Damaged},
		{"qcow2 cut in its tables", small()[:1<<16+4], failure.Damaged},
		{"cluster beyond the end", small()[:3<<16], failure.Damaged},
		{"version 9", patch(4, 0, 0, 0, 9), failure.Incompatible},
		{"backing file", patch(8, 0, 0, 0, 0, 0, 0, 0, 1), failure.Incompatible},
		{"encrypted", patch(32, 0, 0, 0, 1), failure.Incompatible},
		{"unknown features", patch(72, 0x80), failure.Incompatible},
		{"clusters of 2^60", patch(20, 0, 0, 0, 60), failure.Damaged},
		{"absurd size", patch(24, 0x7f), failure.Damaged},
		{"table outside", patch(40, 0x7f), failure.Damaged},
		{"compressed cluster outside", patch(2<<16+16, 0x40, 0, 0, 0xff), failure.Damaged},
		{"compressed cluster of noise", patch(2<<16+16, 0x40), failure.Damaged},
		{"compressed cluster named twice", compressedTwice(), failure.Damaged},
		{"unknown compression", unknownCompression, failure.Incompatible},
		{"table named twice", tableTwice, failure.Damaged},
		{"one cluster named often", aliased, failure.Damaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, l := images(t)
			if _, err := s.Import(t.Context(), l, file(t, c.image), "x"); !errors.Is(err, c.class) {
				t.Errorf("import: %v, want %v", err, c.class)
			}
			if all, err := s.List(t.Context()); err != nil || len(all) > 0 {
				t.Errorf("images after a refusal: %v, %v", all, err)
			}
		})
	}
}

func TestAHeldImageStays(t *testing.T) {
	s, l := images(t)
	rec, err := s.Import(t.Context(), l, file(t, make([]byte, 4096)), "disk")
	if err != nil {
		t.Fatal(err)
	}
	held := func(context.Context, digest.Digest) ([]string, error) { return []string{"vm web"}, nil }
	if err := s.Remove(t.Context(), "disk", held); !errors.Is(err, failure.Conflict) {
		t.Errorf("remove of a held image: %v", err)
	}
	if _, err := os.Stat(s.Path(rec.ID)); err != nil {
		t.Error(err)
	}
	free := func(context.Context, digest.Digest) ([]string, error) { return nil, nil }
	if err := s.Remove(t.Context(), "disk", free); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), "disk"); !errors.Is(err, failure.NotFound) {
		t.Errorf("get after remove: %v", err)
	}
}

// FuzzQcow2 opens and copies hostile files: no panic, no output beyond what the
// file holds.
func FuzzQcow2(f *testing.F) {
	f.Add(small())
	f.Add(deflated())
	f.Add(small()[:104])
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := os.Open(file(t, b))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		q, err := openQcow2(in)
		if err != nil {
			return
		}
		if len(q.l1) > 64 || q.size > 1<<26 {
			return // slow and no more telling
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := q.copyTo(t.Context(), out); err == nil && q.copied > int64(len(b)) {
			t.Errorf("%d bytes came out of %d", q.copied, len(b))
		}
	})
}

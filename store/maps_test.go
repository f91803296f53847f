package store

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
)

// TestMapsAreOfAWholeSnapshot: each is decoded, and one of which anything is
// missing, short or unnamed is damaged.
func TestMapsAreOfAWholeSnapshot(t *testing.T) {
	packOf := func(sn *Snapshot) digest.Digest {
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == MediaTypePack {
				return l.Digest
			}
		}
		return ""
	}
	for name, c := range map[string]struct {
		harm func(s *Store, sn *Snapshot) error
		says string // "" is whole
	}{
		"whole":      {func(*Store, *Snapshot) error { return nil }, ""},
		"no pack":    {func(s *Store, sn *Snapshot) error { return os.Remove(s.BlobPath(packOf(sn))) }, "want present, got missing"},
		"no state":   {func(s *Store, sn *Snapshot) error { return os.Remove(s.BlobPath(sn.Spec.CHState)) }, "want present, got missing"},
		"a cut pack": {func(s *Store, sn *Snapshot) error { return os.Truncate(s.BlobPath(packOf(sn)), 100) }, "got 100 bytes"},
		"a rotten map": {func(s *Store, sn *Snapshot) error {
			path := s.BlobPath(sn.Spec.Memory[0].Map)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return errors.Join(os.Remove(path), os.WriteFile(path, b, 0o400))
		}, "want readable"},
		"a pack that nothing names": {func(_ *Store, sn *Snapshot) error {
			sn.Manifest.Layers = sn.Manifest.Layers[1:]
			return nil
		}, "unnamed pack"},
		"RAM of another size": {func(_ *Store, sn *Snapshot) error {
			sn.Spec.Memory[0].Bytes = 4096
			return nil
		}, "RAM at 0x0: want 4096 bytes"},
		"no image": {func(_ *Store, sn *Snapshot) error {
			sn.Spec.Images = []ImageRef{{Digest: digest.FromString("kernel"), Role: "kernel", Bytes: 6}}
			return nil
		}, "want present, got missing"},
	} {
		t.Run(name, func(t *testing.T) {
			s, ram := openTest(t), image(1, 30)
			l := leaseTest(t, s)
			sn, err := publishSaying(t.Context(), s, l, "x", ram, func(sp *Spec) {
				sp.Disks = []Disk{{Index: 0, Bytes: int64(len(ram)), Map: sp.Memory[0].Map}}
			})
			if err == nil {
				err = c.harm(s, sn)
			}
			if err != nil {
				t.Fatal(err)
			}
			maps, err := contents.Of(s, sn).Maps(t.Context())
			if c.says != "" {
				if !errors.Is(err, failure.Damaged) || !strings.Contains(err.Error(), c.says) || maps != nil {
					t.Errorf("%v, want damage that says %q", err, c.says)
				}
				return
			}
			if err != nil || len(maps.Memory) != 1 || len(maps.Disks) != 1 || maps.Memory[0] != maps.Disks[0] {
				t.Fatalf("%+v, %v: one map, decoded once", maps, err)
			}
			im, err := contents.Of(s, sn).Open(t.Context(), maps.Memory[0])
			if err != nil || im.Bytes() != int64(len(ram)) {
				t.Fatalf("opened: %v", err)
			}
			im.Close()
		})
	}
}

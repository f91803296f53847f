package store

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
)

func packOf(t testing.TB, sn *Snapshot) digest.Digest {
	t.Helper()
	for _, l := range sn.Manifest.Layers {
		if l.MediaType == MediaTypePack {
			return l.Digest
		}
	}
	t.Fatal("no pack")
	return ""
}

// spoil changes a blob's file in place.
func spoil(t testing.TB, s *Store, d digest.Digest, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(s.BlobPath(d))
	if err == nil {
		err = errors.Join(os.Chmod(s.BlobPath(d), 0o600), os.WriteFile(s.BlobPath(d), change(b), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x10
		return b
	}
}

// damages are the blobs of snapshots that are not sound, and snapshots that do not
// read; [repair.Verify] says more, and stands above this room.
func damages(t testing.TB, s *Store) (found []string) {
	t.Helper()
	for sn, err := range s.List(t.Context()) {
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		for _, d := range document.Edges(sn) {
			if sound, err := s.sound(d); !sound || err != nil {
				found = append(found, string(d))
			}
		}
		if _, err := readRAM(t, s, sn.ID); err != nil {
			found = append(found, err.Error())
		}
	}
	return found
}

// TestTheSameDataAgainReplacesADamagedBlob: what is published or pulled again replaces
// a damaged file of its name rather than trust it.
func TestTheSameDataAgainReplacesADamagedBlob(t *testing.T) {
	s, ram := openTest(t), image(1, 30)
	sn := mustPublish(t, s, "first", ram)
	spoil(t, s, packOf(t, sn), flip(60))
	spoil(t, s, sn.Spec.Memory[0].Map, flip(60))
	mustPublish(t, s, "again", ram)
	if found := damages(t, s); len(found) > 0 {
		t.Errorf("afterwards: %+v", found)
	}
}

func TestHasLooksTwiceAtABlobThatWasFoundDamaged(t *testing.T) {
	s, ram := openTest(t), image(1, 30)
	sn := mustPublish(t, s, "first", ram)
	d := Descriptor{Digest: packOf(t, sn)}
	fi, err := os.Stat(s.BlobPath(d.Digest))
	if err != nil {
		t.Fatal(err)
	}
	d.Size = fi.Size()
	whole, err := os.ReadFile(s.BlobPath(d.Digest))
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Ingest(t.Context(), leaseTest(t, s))
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, s, d.Digest, flip(60))
	if err := s.Quarantine(t.Context(), sn.ID, []string{"blob " + string(d.Digest)}); err != nil {
		t.Fatal(err)
	}
	if has, err := in.Has(t.Context(), d); has || err != nil {
		t.Errorf("damaged, and Has is %v, %v", has, err)
	}
	if err := in.Land(t.Context(), d, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if has, err := in.Has(t.Context(), d); !has || err != nil || s.foundDamaged(d.Digest) {
		t.Errorf("landed again, and Has is %v, %v", has, err)
	}
}

// TestNoLyingPackLands: its digest is right, and its pages are not those that its
// index names.
func TestNoLyingPackLands(t *testing.T) {
	s := openTest(t)
	b, err := os.ReadFile(s.BlobPath(packOf(t, mustPublish(t, s, "first", image(1, 30)))))
	if err != nil {
		t.Fatal(err)
	}
	b = flip(60)(b)
	d := Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(b), Size: int64(len(b))}
	in, err := s.Ingest(t.Context(), leaseTest(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Land(t.Context(), d, bytes.NewReader(b)); !errors.Is(err, failure.Damaged) {
		t.Errorf("it lands: %v", err)
	}
	if has, err := in.Has(t.Context(), d); has || err != nil {
		t.Errorf("it is here: %v, %v", has, err)
	}
}

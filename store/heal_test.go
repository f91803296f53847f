package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
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

func damages(t testing.TB, s *Store) []Damage {
	t.Helper()
	rep, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	return rep.Damaged
}

// TestADamagedPackIsMadeWholeFromWhatIsThere: byte for byte, or not at all.
func TestADamagedPackIsMadeWholeFromWhatIsThere(t *testing.T) {
	const pages = 700 // three frames
	ram := image(1, pages)
	other := func(t *testing.T, s *Store) func(context.Context, *Snapshot) []RawCopy {
		// The same pages behind one of its own: another pack, other frames.
		mustPublish(t, s, "other", append(image(2, 1), ram...))
		return nil
	}
	raw := func(t *testing.T, s *Store) func(context.Context, *Snapshot) []RawCopy {
		path := filepath.Join(t.TempDir(), "memory")
		if err := os.WriteFile(path, append(make([]byte, 4096), ram...), 0o600); err != nil {
			t.Fatal(err)
		}
		return func(_ context.Context, sn *Snapshot) []RawCopy {
			return []RawCopy{{Path: path + "none", Map: sn.Spec.Memory[0].Map}, {Path: path, Offset: 4096, Map: sn.Spec.Memory[0].Map}}
		}
	}
	alone := func(*testing.T, *Store) func(context.Context, *Snapshot) []RawCopy { return nil }
	for name, tc := range map[string]struct {
		harm   func([]byte) []byte
		copies func(t *testing.T, s *Store) func(context.Context, *Snapshot) []RawCopy
		healed bool
	}{
		"frame, page in another pack":     {flip(60), other, true},
		"frame, page in a raw file":       {flip(60), raw, true},
		"frame, no copy":                  {flip(60), alone, false},
		"index":                           {flip(-200), alone, true},
		"tail":                            {flip(-5), alone, true},
		"index cut off":                   {func(b []byte) []byte { return b[:len(b)-300] }, alone, true},
		"something behind the end":        {func(b []byte) []byte { return append(b, 1, 2, 3) }, alone, true},
		"frame and index, page elsewhere": {func(b []byte) []byte { return flip(-200)(flip(60)(b)) }, other, false},
		"frame's own checksum":            {flipChecksum, alone, true},
		"empty":                           {func([]byte) []byte { return nil }, other, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t)
			sn := mustPublish(t, s, "first", ram)
			d := packOf(t, sn)
			copies := tc.copies(t, s)
			spoil(t, s, d, tc.harm)
			before, err := os.ReadFile(s.BlobPath(d))
			if err != nil {
				t.Fatal(err)
			}
			if found := damages(t, s); len(found) == 0 {
				t.Fatal("the damage is not seen")
			}
			l := leaseTest(t, s)
			in, err := s.Ingest(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			for _, dry := range []bool{true, false} {
				how, err := s.Heal(t.Context(), in, d, []ID{sn.ID}, HealOptions{DryRun: dry, Copies: copies})
				if tc.healed != (err == nil) || err != nil && !errors.Is(err, failure.Damaged) {
					t.Fatalf("dry run %v: %v", dry, err)
				}
				t.Log(how, err)
				if after, _ := os.ReadFile(s.BlobPath(d)); (dry || !tc.healed) && !bytes.Equal(before, after) {
					t.Errorf("dry run %v: the file was changed", dry)
				}
			}
			if found := damages(t, s); tc.healed != (len(found) == 0) {
				t.Errorf("afterwards: %+v", found)
			}
			if err := l.Release(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// flipChecksum changes the last byte of the first zstd frame.
func flipChecksum(b []byte) []byte {
	ix, err := pack.ReadIndex(bytes.NewReader(b), int64(len(b)), keyring.None())
	if err != nil {
		panic(err)
	}
	return flip(int(ix.Frames[0].Bytes) - 1)(b)
}

// TestTheSameDataAgainHealsTheBlob: what is published or pulled again replaces
// a damaged file of its name rather than trust it.
func TestTheSameDataAgainHealsTheBlob(t *testing.T) {
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
	if _, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true, Quarantine: true}); err != nil {
		t.Fatal(err)
	}
	if has, err := in.Has(t.Context(), d); has || err != nil {
		t.Errorf("damaged, and Has is %v, %v", has, err)
	}
	if err := in.Land(t.Context(), d, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if has, err := in.Has(t.Context(), d); !has || err != nil || s.suspected(d.Digest) {
		t.Errorf("landed again, and Has is %v, %v", has, err)
	}
}

func TestQuarantineMarksExactlyWhatIsAffected(t *testing.T) {
	s := openTest(t)
	hit, sound := mustPublish(t, s, "hit", image(1, 9)), mustPublish(t, s, "sound", image(2, 9))
	spoil(t, s, packOf(t, hit), flip(60))
	rep, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true, Quarantine: true})
	if err != nil || len(rep.Quarantined) != 1 || rep.Quarantined[0] != hit.ID {
		t.Fatalf("%+v %v", rep, err)
	}
	for id, want := range map[ID]string{hit.ID: "quarantined", sound.ID: "ready"} {
		sn, err := s.Get(t.Context(), id)
		if err != nil || sn.State != want || (sn.Usable() == nil) != (want == "ready") {
			t.Errorf("snapshot %s is %s, want %s (%v)", id, sn.State, want, err)
		}
	}
	all, err := s.Summaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		if want := map[ID]string{hit.ID: "quarantined", sound.ID: "ready"}[x.ID]; x.State != want {
			t.Errorf("listed as %s, want %s", x.State, want)
		}
	}
	if err := s.Release(t.Context(), hit.ID); err != nil {
		t.Fatal(err)
	}
	if sn, err := s.Get(t.Context(), hit.ID); err != nil || sn.Usable() != nil {
		t.Errorf("released, and still %s (%v)", sn.State, err)
	}
}

// TestTheSlicesTogetherReadEverythingOnce: 1/t … t/t.
func TestTheSlicesTogetherReadEverythingOnce(t *testing.T) {
	s := openTest(t)
	for i := range 12 {
		mustPublish(t, s, "", image(i, 5))
	}
	whole, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for n := 1; n <= 5; n++ {
		rep, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true, Part: n, Parts: 5})
		if err != nil || rep.BytesRead == 0 || rep.BytesRead == whole.BytesRead {
			t.Errorf("slice %d/5: %d of %d bytes, %v", n, rep.BytesRead, whole.BytesRead, err)
		}
		sum += rep.BytesRead
	}
	if sum != whole.BytesRead {
		t.Errorf("the slices read %d bytes, everything is %d", sum, whole.BytesRead)
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

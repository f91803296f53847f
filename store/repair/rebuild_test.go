package repair_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/repair"
)

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x10
		return b
	}
}

func damages(t testing.TB, s *store.Store) []repair.Damage {
	t.Helper()
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	return rep.Damaged
}

// TestADamagedPackIsMadeWholeFromWhatIsThere: byte for byte, or not at all.
func TestADamagedPackIsMadeWholeFromWhatIsThere(t *testing.T) {
	const pages = 700 // three frames
	ram := storetest.Image(1, pages)
	other := func(t *testing.T, s *store.Store) func(context.Context, *store.Snapshot) []repair.RawCopy {
		// The same pages behind one of its own: another pack, other frames.
		storetest.MustPublish(t, s, "other", append(storetest.Image(2, 1), ram...))
		return nil
	}
	raw := func(t *testing.T, s *store.Store) func(context.Context, *store.Snapshot) []repair.RawCopy {
		path := filepath.Join(t.TempDir(), "memory")
		if err := os.WriteFile(path, append(make([]byte, 4096), ram...), 0o600); err != nil {
			t.Fatal(err)
		}
		return func(_ context.Context, sn *store.Snapshot) []repair.RawCopy {
			return []repair.RawCopy{{Path: path + "none", Map: sn.Spec.Memory[0].Map}, {Path: path, Offset: 4096, Map: sn.Spec.Memory[0].Map}}
		}
	}
	alone := func(*testing.T, *store.Store) func(context.Context, *store.Snapshot) []repair.RawCopy { return nil }
	for name, tc := range map[string]struct {
		harm    func([]byte) []byte
		copies  func(t *testing.T, s *store.Store) func(context.Context, *store.Snapshot) []repair.RawCopy
		rebuilt bool
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
			s := open(t, folder(t))
			sn := storetest.MustPublish(t, s, "first", ram)
			d := storetest.PackOf(t, sn)
			copies := tc.copies(t, s)
			storetest.Harm(t, s.BlobPath(d), tc.harm)
			before, err := os.ReadFile(s.BlobPath(d))
			if err != nil {
				t.Fatal(err)
			}
			if found := damages(t, s); len(found) == 0 {
				t.Fatal("the damage is not seen")
			}
			l := storetest.Lease(t, s)
			in, err := s.Ingest(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			for _, dry := range []bool{true, false} {
				how, err := repair.Rebuild(t.Context(), s, in, d, []store.ID{sn.ID}, repair.Options{DryRun: dry, Copies: copies})
				if tc.rebuilt != (err == nil) || err != nil && !errors.Is(err, failure.Damaged) {
					t.Fatalf("dry run %v: %v", dry, err)
				}
				t.Log(how, err)
				if after, _ := os.ReadFile(s.BlobPath(d)); (dry || !tc.rebuilt) && !bytes.Equal(before, after) {
					t.Errorf("dry run %v: the file was changed", dry)
				}
			}
			if found := damages(t, s); tc.rebuilt != (len(found) == 0) {
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

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// noise is RAM that does not compress.
func noise(pages int) []byte {
	b := make([]byte, pages*pack.PageSize)
	x := uint64(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func capped(t testing.TB, limit int64) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "root"), Options{Create: true, MaxBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ingestTest(t testing.TB, s *Store) *Ingest {
	t.Helper()
	in, err := s.Ingest(t.Context(), leaseTest(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestNothingPassesTheCap: what cannot foresee its size ends with no space, and
// what was there is whole.
func TestNothingPassesTheCap(t *testing.T) {
	s := capped(t, 1<<20)
	mustPublish(t, s, "small", image(1, 30))
	l := leaseTest(t, s)
	if _, err := publish(t.Context(), s, l, "large", noise(400)); !errors.Is(err, failure.NoSpace) {
		t.Errorf("1.6 MiB under a cap of 1 MiB: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if used, err := s.blobBytes(); err != nil || used > 1<<20 {
		t.Errorf("%d bytes are stored (%v)", used, err)
	}
	if err := errors.Join(s.RequireBlobs(1000), s.Require(1000)); err != nil {
		t.Error(err)
	}
	if err := s.RequireBlobs(1 << 20); !errors.Is(err, failure.NoSpace) {
		t.Errorf("RequireBlobs of the whole cap: %v", err)
	}
	if found := damages(t, s); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestWhatIsReservedIsNotPromisedTwice: neither by the cap nor by the disk.
func TestWhatIsReservedIsNotPromisedTwice(t *testing.T) {
	s := capped(t, 100<<20)
	one, two := ingestTest(t, s), ingestTest(t, s)
	if err := one.Reserve(60 << 20); err != nil {
		t.Fatal(err)
	}
	if err := two.Reserve(60 << 20); !errors.Is(err, failure.NoSpace) {
		t.Errorf("120 of 100 MiB were promised: %v", err)
	}
	if left, err := os.ReadDir(two.Dir()); err != nil || len(left) > 0 {
		t.Errorf("the refused one left %v (%v)", left, err)
	}
	if err := one.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := two.Reserve(60 << 20); err != nil {
		t.Errorf("after the first gave up: %v", err)
	}
	if err := ingestTest(t, s).Reserve(1 << 60); !errors.Is(err, failure.NoSpace) {
		t.Errorf("an exbibyte: %v", err)
	}
}

// TestPacksUseUpTheReserve: the file shrinks before the pack grows.
func TestPacksUseUpTheReserve(t *testing.T) {
	s := openTest(t)
	in := ingestTest(t, s)
	const reserve = pack.MaxPackBytes + 1<<20
	if err := in.Reserve(reserve); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{1 << 20, 0, 0} {
		f, err := in.CreatePack(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(filepath.Join(in.Dir(), reserveFile))
		if err != nil || fi.Size() != want {
			t.Errorf("%d bytes stay reserved, want %d (%v)", fi.Size(), want, err)
		}
		if err := f.Abort(); err != nil {
			t.Fatal(err)
		}
	}
}

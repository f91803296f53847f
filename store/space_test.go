package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
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
	if err := s.Space().RequireBlobs(0); err != nil {
		t.Errorf("what is stored: %v", err)
	}
	if err := errors.Join(s.Space().RequireBlobs(1000), s.Space().Require(1000)); err != nil {
		t.Error(err)
	}
	if err := s.Space().RequireBlobs(1 << 20); !errors.Is(err, failure.NoSpace) {
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
		fi, err := os.Stat(filepath.Join(in.Dir(), "reserve"))
		if err != nil || fi.Size() != want {
			t.Errorf("%d bytes stay reserved, want %d (%v)", fi.Size(), want, err)
		}
		if err := f.Abort(); err != nil {
			t.Fatal(err)
		}
	}
}

// killTest leaves a lease as SIGKILL does.
func killTest(t testing.TB, l *Lease) {
	t.Helper()
	if err := unix.Flock(int(l.File().Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
}

// small is a store on a file system of 64 MiB that nobody else writes to.
func small(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(t.Context(), filepath.Join(dir, "root"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTheDeadReserveNothing: what a capture had set aside counts by the cap as
// long as its process lives.
func TestTheDeadReserveNothing(t *testing.T) {
	s := capped(t, 100<<20)
	l := leaseTest(t, s)
	dead, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Reserve(60 << 20); err != nil {
		t.Fatal(err)
	}
	next := ingestTest(t, s)
	if err := next.Reserve(60 << 20); !errors.Is(err, failure.NoSpace) {
		t.Fatalf("beside a living holder: %v", err)
	}
	killTest(t, l)
	if err := next.Reserve(60 << 20); err != nil {
		t.Errorf("after its death: %v", err)
	}
}

// TestTheDeadTakeNoRoom: the same of the disk, where blocks are what is reserved.
func TestTheDeadTakeNoRoom(t *testing.T) {
	s := small(t)
	l := leaseTest(t, s)
	dead, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.Dir(), "reserve"), make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Space().Require(32 << 20); !errors.Is(err, failure.NoSpace) {
		t.Fatalf("beside a living holder: %v", err)
	}
	killTest(t, l)
	if err := s.Space().Require(32 << 20); err != nil {
		t.Errorf("after its death: %v", err)
	}
}

// TestTheHintIsGCWhereItSuffices: snapshots need not be removed for what the
// dead have left.
func TestTheHintIsGCWhereItSuffices(t *testing.T) {
	s := small(t)
	l := leaseTest(t, s)
	dead, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.Dir(), "staged"), noise(2048), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dead bool
		want string
	}{{false, "remove snapshots and run cocoon gc"}, {true, "cocoon gc frees what commands that died have left"}} {
		if c.dead {
			killTest(t, l)
		}
		room, err := s.Space().Room()
		if err != nil {
			t.Fatal(err)
		}
		if got := failure.HintOf(s.Space().Require(room.Free + 1<<20)); got != c.want {
			t.Errorf("dead %v: hint %q, want %q", c.dead, got, c.want)
		}
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// TestNamesAreGivenWithoutListingSnapshots: once there is a voucher, neither who
// asks for a name nor who takes or frees one reads the folder of the snapshots.
func TestNamesAreGivenWithoutListingSnapshots(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	first := tiny(t, s, "first") // it lists, and vouches
	listed := listings(t, s.Path("snapshots"))
	for i := range 3 {
		name := fmt.Sprint("name-", i)
		if err := s.NameFree(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		id := tiny(t, s, name)
		if err := s.NameFree(t.Context(), name); !errors.Is(err, failure.Conflict) {
			t.Errorf("a name that is taken: %v", err)
		}
		tiny(t, s, "")
		if err := s.SetMeta(t.Context(), id, func(m *Meta) error { m.Name += "-renamed"; return nil }); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ResolveName(t.Context(), name+"-renamed"); err != nil || got != id {
			t.Errorf("%s is %s, %v, want %s", name, got, err, id)
		}
		if err := s.Remove(t.Context(), id, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := listed(); n > 0 {
		t.Errorf("the folder was read %d times", n)
	}
	if err := os.Remove(s.voucherPath()); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), first, func(m *Meta) error { m.Name = "other"; return nil }); err != nil {
		t.Fatal(err)
	}
	if n := listed(); n == 0 {
		t.Error("without a voucher the folder was not read")
	}
}

// listings counts how often a folder is read from here on.
func listings(t *testing.T, folder string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_ACCESS|unix.IN_ONLYDIR); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		buf := make([]byte, 4096)
		for {
			got, err := unix.Read(fd, buf)
			if err != nil {
				return n
			}
			n += got / unix.SizeofInotifyEvent
		}
	}
}

// tiny publishes a snapshot of nothing.
func tiny(t *testing.T, s *Store, name string) ID {
	t.Helper()
	l, err := s.Lease(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	in, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	d, err := in.Put(t.Context(), MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(context.Background(), Spec{CHConfig: d.Digest, CHState: d.Digest}, Meta{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return sn.ID
}

// TestAFolderIsYoungUntilItsLookIsUnique: what changed within a tick of the clock
// may look the same after another change; so may what changed in the future.
func TestAFolderIsYoungUntilItsLookIsUnique(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]bool{0: true, time.Minute: false, -time.Hour: true} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(s.Path("snapshots"), at, at); err != nil {
			t.Fatal(err)
		}
		if got := s.youngFolder(); got != want {
			t.Errorf("changed %v ago: young %v", age, got)
		}
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/layout"
)

// TestNamesAreGivenWithoutListingSnapshots: once the links are whole, neither who
// asks for a name nor who takes or frees one reads the folder of the snapshots.
func TestNamesAreGivenWithoutListingSnapshots(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true, Veto: free})
	if err != nil {
		t.Fatal(err)
	}
	first := tiny(t, s, "first") // it lists, and marks the links as whole
	listed := listings(t, s.Path("snapshots"))
	for i := range 3 {
		name := fmt.Sprint("name-", i)
		if err := s.Names().Free(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		id := tiny(t, s, name)
		if err := s.Names().Free(t.Context(), name); !errors.Is(err, failure.Conflict) {
			t.Errorf("a name that is taken: %v", err)
		}
		tiny(t, s, "")
		if err := s.SetMeta(t.Context(), id, func(m *Meta) error { m.Name += "-renamed"; return nil }); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Names().Resolve(t.Context(), name+"-renamed"); err != nil || got != id {
			t.Errorf("%s is %s, %v, want %s", name, got, err, id)
		}
		if err := s.Remove(t.Context(), id, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := listed(); n > 0 {
		t.Errorf("the folder was read %d times", n)
	}
	if err := os.Remove(s.Path(layout.Names, ".whole")); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), first, func(m *Meta) error { m.Name = "other"; return nil }); err != nil {
		t.Fatal(err)
	}
	if n := listed(); n == 0 {
		t.Error("without the mark the folder was not read")
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

// TestADeadPublisherOrRenamerBindsNoName: whatever they left, the name that they
// wanted is free or theirs, and the next collection leaves no stale link.
func TestADeadPublisherOrRenamerBindsNoName(t *testing.T) {
	s := openTest(t)
	id := mustPublish(t, s, "old", make([]byte, 4096)).ID
	for _, left := range []struct{ name, to string }{{"unpublished", fuzzID}, {"unfinished", string(id)}} {
		if err := os.Symlink("../snapshots/"+left.to, s.Path(layout.Names, left.name)); err != nil {
			t.Fatal(err)
		}
	}
	stale, err := s.Names().Stale(map[ID]string{id: "old"})
	if want := []string{"unfinished", "unpublished"}; err != nil || !slices.Equal(stale, want) {
		t.Errorf("stale are %v, %v; want %v", stale, err, want)
	}
	if err := s.Names().Free(t.Context(), "unpublished"); err != nil {
		t.Error(err)
	}
	next := mustPublish(t, s, "unpublished", []byte(strings.Repeat("y", 4096))).ID
	removed, err := s.Names().Tidy(t.Context(), stale, nil) // of which one was taken meanwhile
	if want := []string{"unfinished"}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("removed %v, %v; want %v", removed, err, want)
	}
	for name, want := range map[string]ID{"old": id, "unpublished": next} {
		if got, err := s.Names().Resolve(t.Context(), name); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", name, got, err, want)
		}
	}
}

// TestARemovedSnapshotLeavesNoLink, and one that could not be published neither.
func TestARemovedSnapshotLeavesNoLink(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "gone", make([]byte, 4096))
	if err := s.Remove(t.Context(), sn.ID, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	l := leaseTest(t, s)
	in, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	d, err := in.Put(t.Context(), MediaTypeCHConfig, []byte("{}"))
	if err == nil {
		err = os.Remove(s.BlobPath(d.Digest))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), Spec{CHConfig: d.Digest, CHState: d.Digest}, Meta{Name: "refused"}); err == nil {
		t.Error("a snapshot whose blob is gone was published")
	}
	left, err := filepath.Glob(s.Path(layout.Names, "[a-z]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("links are left: %v, %v", left, err)
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	storelayout "github.com/cocoonv2/cocoon/store/layout"
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
	if err := os.Remove(s.Path(storelayout.Names, wholeMark)); err != nil {
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

// TestEveryNameIsAFileName: what may be a name can be a link, none is the mark or
// leads out of the folder, and two names are two links.
func TestEveryNameIsAFileName(t *testing.T) {
	s := openTest(t)
	id := mustPublish(t, s, "x", make([]byte, 4096)).ID
	legal := []string{"a", "A", "0", "a.", "a..b", "a-", "a_", strings.Repeat("n", nameLength), strings.Repeat("a.", nameLength/2), "con", "a.json"}
	for _, name := range legal {
		if err := s.SetMeta(t.Context(), id, func(m *Meta) error { m.Name = name; return nil }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := s.ResolveName(t.Context(), name); err != nil || got != id {
			t.Errorf("%s is %s, %v", name, got, err)
		}
		if all, err := s.linkedNames(); err != nil || !slices.Equal(all, []string{name}) {
			t.Errorf("links of %v, %v", all, err)
		}
	}
	for _, name := range []string{"", ".", "..", wholeMark, "../x", "a/b", "/a", "a\x00", strings.Repeat("n", nameLength+1), fuzzID} {
		if id, err := s.holder(name); err != nil || id != "" {
			t.Errorf("%q is the name of %q, %v", name, id, err)
		}
		if err := s.takeName(id, name); (err == nil) != (name == "") {
			t.Errorf("%q was taken: %v", name, err)
		}
	}
}

// TestADeadPublisherOrRenamerBindsNoName: whatever they left, the name that they
// wanted is free or theirs, and the next collection leaves no stale link.
func TestADeadPublisherOrRenamerBindsNoName(t *testing.T) {
	s := openTest(t)
	id := mustPublish(t, s, "old", make([]byte, 4096)).ID
	for _, left := range []struct{ name, to string }{{"unpublished", fuzzID}, {"unfinished", string(id)}} {
		if err := os.Symlink(linkStart+left.to, s.Path(storelayout.Names, left.name)); err != nil {
			t.Fatal(err)
		}
	}
	stale, err := s.StaleNames(map[ID]string{id: "old"})
	if want := []string{"unfinished", "unpublished"}; err != nil || !slices.Equal(stale, want) {
		t.Errorf("stale are %v, %v; want %v", stale, err, want)
	}
	if err := s.NameFree(t.Context(), "unpublished"); err != nil {
		t.Error(err)
	}
	next := mustPublish(t, s, "unpublished", []byte(strings.Repeat("y", 4096))).ID
	removed, err := s.TidyNames(t.Context(), stale, nil) // of which one was taken meanwhile
	if want := []string{"unfinished"}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("removed %v, %v; want %v", removed, err, want)
	}
	for name, want := range map[string]ID{"old": id, "unpublished": next} {
		if got, err := s.ResolveName(t.Context(), name); err != nil || got != want {
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
	if all, err := s.linkedNames(); err != nil || len(all) > 0 {
		t.Errorf("links are left: %v, %v", all, err)
	}
}

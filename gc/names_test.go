package gc

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/store"
)

// TestLinksOfNamesThatNobodyHasGo, those of others stay, and a missing one is made.
func TestLinksOfNamesThatNobodyHasGo(t *testing.T) {
	s := open(t, t.TempDir())
	var ids []store.ID
	for _, name := range []string{"kept", "unlinked"} {
		sn := mustPublish(t, s, name)
		if err := s.SetMeta(t.Context(), sn.ID, func(m *store.Meta) error { m.Name = name; return nil }); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, sn.ID)
	}
	if err := errors.Join(os.Symlink("../snapshots/00112233445566778899aabbccddeeff", s.Path("names", "stale")), os.Remove(s.Path("names", "unlinked"))); err != nil {
		t.Fatal(err)
	}
	for _, dryRun := range []bool{true, false} {
		rep := collect(t, s, Options{DryRun: dryRun})
		if !slices.ContainsFunc(rep.Removed, func(r Removed) bool { return r.Kind == "name" && r.ID == "stale" }) || len(rep.Removed) != 1 {
			t.Errorf("dry run %v: removed %+v", dryRun, rep.Removed)
		}
		if _, err := os.Lstat(s.Path("names", "stale")); (err == nil) != dryRun {
			t.Errorf("dry run %v: the stale link: %v", dryRun, err)
		}
	}
	for i, name := range []string{"kept", "unlinked"} {
		if to, err := os.Readlink(s.Path("names", name)); err != nil || to != "../snapshots/"+string(ids[i]) {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
}

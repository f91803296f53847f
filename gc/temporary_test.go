package gc

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTemporaryFilesGoWithTheirWriters, wherever they lie; one that is being
// written stays, and so does what it is to replace.
func TestTemporaryFilesGoWithTheirWriters(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	id := mustPublish(t, s, "a").ID
	var dead []string
	for _, dir := range []string{"", "journals", "vms", "images", "network", filepath.Join("snapshots", string(id))} {
		rel := filepath.Join(dir, ".tmp-x.json-1")
		if err := os.WriteFile(s.Path(rel), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		dead = append(dead, rel)
	}
	living, err := os.Create(s.Path("journals", ".tmp-y.json-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := unix.Flock(int(living.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	removed := func(o Options) (got []string) {
		for _, r := range collect(t, s, o).Removed {
			if r.Kind == "temporary" {
				got = append(got, r.ID)
			}
		}
		slices.Sort(got)
		return got
	}
	slices.Sort(dead)
	for _, o := range []Options{{DryRun: true}, {}} {
		if got := removed(o); !slices.Equal(got, dead) {
			t.Errorf("dry run %v: removed %q, want %q", o.DryRun, got, dead)
		}
	}
	if got := removed(Options{}); len(got) > 0 {
		t.Errorf("a second run removes %q", got)
	}
	for _, rel := range dead {
		if _, err := os.Lstat(s.Path(rel)); err == nil {
			t.Errorf("%s is there still", rel)
		}
	}
	if _, err := os.Lstat(living.Name()); err != nil {
		t.Errorf("that of a living writer is gone: %v", err)
	}
}

package gc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/gc/garbage"
)

// TestWhatEarlierProgramsDerivedIsCollected, and an index of theirs is none that is
// damaged: it gives way to another.
func TestWhatEarlierProgramsDerivedIsCollected(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "a")
	former := []string{"cache/summaries", "cache/families", "refs.db.lock", "refs.db.new"}
	for _, name := range append(former, "refs.db") {
		if err := os.WriteFile(s.Path(name), make([]byte, 1<<15), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Index().Check(); err != nil {
		t.Errorf("an earlier program's index: %v", err)
	}
	for _, o := range []Options{{DryRun: true}, {}, {}} {
		got := 0
		for _, r := range collect(t, s, o).Removed {
			if r.Kind == garbage.Cache {
				got++
			}
		}
		for _, name := range former {
			if _, err := os.Lstat(s.Path(name)); (err == nil) != o.DryRun {
				t.Errorf("dry run %v: %s: %v", o.DryRun, name, err)
			}
		}
		if want := len(former); got != want && !(got == 0 && !o.DryRun) {
			t.Errorf("dry run %v: %d removed, want %d", o.DryRun, got, want)
		}
	}
	if all, err := s.Index().Summaries(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("listed: %d, %v", len(all), err)
	}
	if err := s.Index().Check(); err != nil {
		t.Errorf("the index that was made: %v", err)
	}
}

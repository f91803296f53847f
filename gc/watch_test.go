package gc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store/document"
)

// TestAWatchTellsWhatCame, and says when it does not know.
func TestAWatchTellsWhatCame(t *testing.T) {
	dir, aside := t.TempDir(), t.TempDir()
	w := newWatch(dir)
	if w == nil {
		t.Skip("nothing can be watched here")
	}
	defer w.close()
	for _, name := range []string{"a", "b"} {
		if err := errors.Join(os.Mkdir(filepath.Join(aside, name), 0o700), os.Rename(filepath.Join(aside, name), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "c"), 0o700), os.Remove(filepath.Join(dir, "a"))); err != nil {
		t.Fatal(err)
	}
	if names, ok := w.came(); !ok || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("came %q, known %v", names, ok)
	}
	if names, ok := w.came(); !ok || len(names) > 0 {
		t.Errorf("asked again: %q, known %v", names, ok)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.came(); ok {
		t.Error("the folder is gone, and what came is said to be known")
	}
}

// TestWindowsDoNotGrowWithTheStore: what a window looks at is what happened
// beside it, not how many snapshots there are.
func TestWindowsDoNotGrowWithTheStore(t *testing.T) {
	most := map[int]int{}
	for _, snapshots := range []int{20, 100} {
		s := open(t, filepath.Join(t.TempDir(), "root"))
		for i := range snapshots {
			mustPublish(t, s, fmt.Sprint(i))
		}
		litter(t, s, 1000)
		r := newRoots(s, sources(s), newMarks(false), nil)
		defer r.watch.close()
		if err := r.update(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 5 { // a snapshot is published before each window
			sn := mustPublish(t, s, fmt.Sprint("new ", i))
			before := r.looked
			if err := r.update(t.Context()); err != nil {
				t.Fatal(err)
			}
			most[snapshots] = max(most[snapshots], r.looked-before)
			for _, d := range document.Edges(sn) {
				if o, _ := garbage.DigestKey(d); !r.marks.held(o) {
					t.Errorf("blob %s of a snapshot that came is not marked", d)
				}
			}
		}
		rep := collect(t, s, Options{})
		if rep.Windows.Count == 0 || rep.Windows.MostEntries > 4 {
			t.Errorf("%d snapshots: windows %+v", snapshots, rep.Windows)
		}
	}
	if most[20] != most[100] || most[100] > 3 {
		t.Errorf("entries looked at for one new snapshot, by snapshots in the store: %v", most)
	}
	t.Logf("entries looked at for one new snapshot, by snapshots in the store: %v", most)
}

// TestWithoutAWatchFoldersAreListed: nothing that came is missed.
func TestWithoutAWatchFoldersAreListed(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "old")
	r := newRoots(s, sources(s), newMarks(false), nil)
	r.watch.close()
	r.watch = nil
	if err := r.update(t.Context()); err != nil {
		t.Fatal(err)
	}
	sn := mustPublish(t, s, "new")
	if err := r.update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o, _ := garbage.DigestKey(sn.Spec.CHConfig); !r.marks.held(o) {
		t.Error("a snapshot that came is not marked")
	}
}

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestASnapshotThatGoesBetweenTwoReads is gone, while one whose meta.json was lost
// is damaged.
func TestASnapshotThatGoesBetweenTwoReads(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 4096))
	if err := os.Remove(filepath.Join(sn.Dir, "meta.json")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), sn.ID); !errors.Is(err, failure.Damaged) || got == nil || got.State != Damaged {
		t.Errorf("without meta.json: %+v, %v; want what is left of it, and damage", got, err)
	}
	if err := os.Rename(sn.Dir, s.Path("trash", string(sn.ID))); err != nil {
		t.Fatal(err)
	}
	if _, err := readMeta(sn.Dir); !errors.Is(err, failure.NotFound) { // its manifest was read before
		t.Errorf("taken away meanwhile: %v, want %v", err, failure.NotFound)
	}
}

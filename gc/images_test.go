package gc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	attribute "github.com/cocoonv2/cocoon/internal/base/immutable"
	"github.com/cocoonv2/cocoon/internal/engine/image"
)

// TestAnImageUnderAVMMStays, though the record that named it is lost: the VMM holds
// a shared lock for as long as it lives.
func TestAnImageUnderAVMMStays(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	path := s.ImageBlobPath(digest.FromString("base"))
	if err := os.WriteFile(path, []byte("base"), 0o400); err != nil {
		t.Fatal(err)
	}
	lock, err := filelock.SharedExisting(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if used, err := image.New(s).InUse(digest.FromString("base")); !used || err != nil {
		t.Errorf("in use: %v, %v", used, err)
	}
	if rep := collect(t, s, Options{Explain: true}); len(rep.Removed) > 0 || len(rep.Kept) != 1 || rep.Kept[0].Kind != "image" {
		t.Errorf("removed %+v, kept %+v", rep.Removed, rep.Kept)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	_ = attribute.Set(path, true) // where there is that: gc takes it away
	if rep := collect(t, s, Options{}); len(rep.Removed) != 1 {
		t.Errorf("removed %+v", rep.Removed)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		_ = attribute.Set(path, false)
		t.Errorf("it is still there: %v", err)
	}
}

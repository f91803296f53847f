package gc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// TestAFolderThatAVMMHasStays although no record is there: the VMM may be one that
// cannot be seen.
func TestAFolderThatAVMMHasStays(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	for i, file := range []string{"vmm.lock", "disk-0.raw"} {
		dir := s.Path("vms", strings.Repeat("ab"[i:i+1], 32))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		held, err := filelock.Exclusive(t.Context(), filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if rep := collect(t, s, Options{}); len(rep.Removed) > 0 || !exists(dir) {
			t.Errorf("%s is locked: removed %+v", file, rep.Removed)
		}
		if err := held.Unlock(); err != nil {
			t.Fatal(err)
		}
		if rep := collect(t, s, Options{}); len(rep.Removed) != 1 || exists(dir) {
			t.Errorf("%s is free: removed %+v", file, rep.Removed)
		}
	}
}

package gc

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestFingerprints: those of an image of a snapshot stay until the host is
// started again, others go; what is no such file is nobody's business.
func TestFingerprints(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	known := mustPublish(t, s, "a").Manifest.Layers[0].Digest
	put := func(name string, used time.Time) string {
		path := s.Path("cache", "fingerprints", name)
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
		return path
	}
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }

	needed, orphan, other := put(known.Encoded(), time.Now()), put(digest.FromString("orphan").Encoded(), time.Now()), put("readme", time.Now())
	rep := collect(t, s, Options{DryRun: true})
	if !there(orphan) || len(rep.Removed) != 1 || rep.Removed[0].ID != "fingerprints/"+filepath.Base(orphan) || rep.Removed[0].Bytes < 8192 {
		t.Errorf("dry run: %+v", rep.Removed)
	}
	collect(t, s, Options{})
	if !there(needed) || there(orphan) || !there(other) {
		t.Errorf("needed %v, orphan %v, other %v", there(needed), there(orphan), there(other))
	}
	put(known.Encoded(), time.Unix(1000, 0))
	if collect(t, s, Options{}); there(needed) {
		t.Error("prints of an earlier boot stayed")
	}
}

package gc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// TestCache: RAM files stay below the cap by their last use, whatever is mapped
// stays, what no snapshot has any more goes, and an unfinished file goes with
// its maker.
func TestCache(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	key := ramcache.Key(mustPublish(t, s, "a")) // all test snapshots have the same, empty RAM
	put := func(d digest.Digest, used int64) string {
		path := ramcache.Path(s, d)
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(used, 0), time.Unix(used, 0)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }

	known := put(key, 1000)
	orphan := put(digest.FromString("orphan"), 2000)
	mapped := put(digest.FromString("mapped"), 100)
	if err := os.Link(mapped, s.Path("vms", "memory.base")); err != nil {
		t.Fatal(err)
	}
	lock, err := filelock.TryExclusive(ramcache.Path(s, digest.FromString("making")) + ".new")
	if err != nil {
		t.Fatal(err)
	}
	dead := ramcache.Path(s, digest.FromString("dead")) + ".new"
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rep := collect(t, s, Options{Explain: true, Sources: []garbage.Source{ramcache.Cache{Store: s, Cap: ramcache.AtMost(1 << 30)}.Garbage()}})
	if !there(known) || there(orphan) || !there(mapped) || !there(lock.File().Name()) || there(dead) {
		t.Errorf("known %v, orphan %v, mapped %v, being made %v, dead %v", there(known), there(orphan), there(mapped), there(lock.File().Name()), there(dead))
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	for _, k := range rep.Kept {
		if k.Kind == "cache" && k.ID == string(key) && !strings.Contains(strings.Join(k.Holders, " "), "the cache, last used 1970-01-01T00:16:40Z") {
			t.Errorf("kept by %v", k.Holders)
		}
	}

	rep = collect(t, s, Options{Sources: []garbage.Source{ramcache.Cache{Store: s, Cap: ramcache.AtMost(8192)}.Garbage()}})
	reason := ""
	for _, r := range rep.Removed {
		if r.ID == string(key) {
			reason = r.Reason
		}
	}
	if there(known) || !there(mapped) || !strings.Contains(reason, "last used 1970-01-01T00:16:40Z, the longest ago") {
		t.Errorf("above the cap: known %v, mapped %v, reason %q", there(known), there(mapped), reason)
	}
}

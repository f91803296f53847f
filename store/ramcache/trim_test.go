package ramcache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store"
)

func TestOverCapTakesTheLongestUnusedThatMayGo(t *testing.T) {
	key := func(s string) digest.Digest { return digest.FromString(s) }
	all := []File{ // least recently used first
		{Key: key("mapped"), Bytes: 10, Mapped: true},
		{Key: key("old"), Bytes: 10},
		{Key: key("held"), Bytes: 10},
		{Key: key("newer"), Bytes: 10},
		{Key: key("newest"), Bytes: 10},
	}
	held := func(d digest.Digest) bool { return d == key("held") }
	for cap, want := range map[int64][]string{50: nil, 49: {"old"}, 40: {"old"}, 39: {"old", "newer"}, 25: {"old", "newer", "newest"}, 0: {"old", "newer", "newest"}} {
		var names []digest.Digest
		for _, w := range want {
			names = append(names, key(w))
		}
		var got []digest.Digest
		for _, c := range OverCap(all, held, cap) {
			got = append(got, c.Key)
		}
		if d := cmp.Diff(names, got); d != "" {
			t.Errorf("cap %d (-want +got):\n%s", cap, d)
		}
	}
}

func TestTrimKeepsWhatIsMappedHeldOrUsedLast(t *testing.T) {
	ctx := t.Context()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	cache := Cache{s, AtMost(3 * 8192)}
	keys := map[string]digest.Digest{}
	for i, name := range []string{"mapped", "held", "used again", "goes"} {
		keys[name] = digest.FromString(name)
		path := Path(s, keys[name])
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(Path(s, keys["mapped"]), s.Path("vms", "memory.base")); err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if err := l.Hold(ctx, keys["held"]); err != nil {
		t.Fatal(err)
	}
	if there, err := cache.use(keys["used again"]); !there || err != nil {
		t.Fatalf("used: %v, %v", there, err)
	}
	if there, err := cache.use(digest.FromString("never made")); there || err != nil {
		t.Errorf("a file that is not there is used: %v, %v", there, err)
	}
	if err := cache.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	for name, key := range keys {
		if _, err := os.Stat(Path(s, key)); (err == nil) != (name != "goes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(s.Path("trash")); len(left) > 0 {
		t.Errorf("trash holds %v", left)
	}
}

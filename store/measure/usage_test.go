package measure

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/store"
	"github.com/opencontainers/go-digest"
)

// TestUsageCountsEachFileOnce: a RAM file with a second name in a VM's folder
// costs once, one that only the VM still has counts as cache too, and the parts
// make up the whole.
func TestUsageCountsEachFileOnce(t *testing.T) {
	ctx := t.Context()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cached := s.Path("cache", "memory", digest.FromString("a").Encoded())
	write(cached)
	write(s.Path("cache", "memory", digest.FromString("b").Encoded()))
	for _, vm := range []string{"1", "2"} {
		if err := os.MkdirAll(s.Path("vms", vm), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(cached, s.Path("vms", vm, "memory.base")); err != nil {
			t.Fatal(err)
		}
	}
	write(s.Path("vms", "3", "memory.base")) // the cache has forgotten it
	write(s.Path("vms", "3", "disk-0.raw"))
	write(s.BlobPath(digest.FromString("orphan")))
	write(s.Path("trash", "x", "y"))
	write(s.Path("snapshots", "x", "manifest.json"))
	u, err := Count(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]struct{ have, want int }{
		"cache": {u.Cache.Files, 3}, "mapped": {u.Mapped.Files, 2}, "vms": {u.VMs.Files, 1},
		"unnamed": {u.Unnamed.Files, 1}, "trash": {u.Trash.Files, 1}, "snapshots": {u.Snapshots, 0},
	} {
		if got.have != got.want {
			t.Errorf("%s: %d files, want %d", what, got.have, got.want)
		}
	}
	sum := u.Unique.Bytes + u.Shared.Bytes + u.Manifests.Bytes + u.Unnamed.Bytes + u.Images.Bytes + u.VMs.Bytes + u.Cache.Bytes + u.Ingest.Bytes + u.Trash.Bytes + u.Other.Bytes
	if sum != u.Total {
		t.Errorf("the parts make %d bytes of %d (%+v)", sum, u.Total, u)
	}
	if u.Cache.Bytes < 3*64<<10 || u.Free <= 0 {
		t.Errorf("cache of %d bytes, %d free", u.Cache.Bytes, u.Free)
	}
}

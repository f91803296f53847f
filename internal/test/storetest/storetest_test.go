package storetest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/inmemory"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
)

func collect(ctx context.Context, s *store.Store) error {
	_, err := gc.Collect(ctx, s, gc.Options{Sources: []garbage.Source{vm.Garbage(s), image.Garbage(s), image.Pins(s), image.Blobs(s)}, Grace: -1})
	return err
}

func folder(t testing.TB) string { return filepath.Join(t.TempDir(), "root") }

// inMemory is for what a disk has no part in.
func inMemory(t testing.TB) string { return filepath.Join(inmemory.Dir(t), "root") }

func TestFolder(t *testing.T) {
	storetest.Run(t, storetest.Harness{Root: folder, Collect: collect})
}

func TestEncrypted(t *testing.T) {
	keys := keyring.FromKeys(keyring.FromSecret([32]byte{1}), keyring.FromSecret([32]byte{2}))
	storetest.Run(t, storetest.Harness{Root: inMemory, Collect: collect, Keys: keys})
}

func TestTmpfs(t *testing.T) {
	storetest.Run(t, storetest.Harness{Collect: collect, Root: func(t testing.TB) string {
		root := t.TempDir()
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64m,mode=700"); err != nil {
			t.Skipf("no tmpfs can be mounted here: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		return root
	}})
}

// TestDebris runs over stores in which everybody died half-way.
func TestDebris(t *testing.T) {
	storetest.Run(t, storetest.Harness{Collect: collect, Root: func(t testing.TB) string {
		root := inMemory(t)
		if _, err := store.Open(t.Context(), root, store.Options{Create: true}); err != nil {
			t.Fatal(err)
		}
		hex32, hex64 := "0123456789abcdef0123456789abcdef", ""
		for range 4 {
			hex64 += hex32[:16]
		}
		for path, content := range map[string]string{
			"leases/" + hex32:                     "for snapshot create\nsha256:" + hex64 + "\nsha256:to",
			"ingest/" + hex32 + "/blob-1":         "half a pa",
			"ingest/" + hex32 + "/snapshot/x":     "",
			"blobs/sha256/" + hex64:               "torn",
			"images/blobs/sha256/" + hex64:        "torn",
			"cache/memory/" + hex64:               "torn",
			"cache/summaries":                     "torn",
			"cache/families":                      "torn",
			"cache/names":                         "torn",
			"cache/names.voucher":                 "torn",
			"names/torn":                          "torn",
			"snapshots/" + hex32 + "/meta.json":   "{}",
			"trash/gc-1/" + hex64:                 "torn",
			"trash/snapshot-" + hex32 + "/m.json": "{}",
			"vms/" + hex32 + "/disk-0.raw":        "torn",
			"refs.db":                             "torn",
			"names.lock":                          "",
		} {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}})
}

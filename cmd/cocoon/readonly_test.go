package main

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// mounted gives the host a store on a file system of its own.
func mounted(t *testing.T, h *host, options string) {
	t.Helper()
	if err := os.Mkdir(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.root, "tmpfs", 0, options+",mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// readers are the commands that change nothing of the store.
func readers(t *testing.T, h *host) {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	out := t.TempDir()
	blobs, err := filepath.Glob(filepath.Join(h.root, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	for _, args := range [][]string{
		{"refs", "sha256:" + filepath.Base(blobs[0])},
		{"snapshot", "list"},
		{"snapshot", "list", "--format", "json"},
		{"snapshot", "inspect", "first"},
		{"snapshot", "verify", "--all", "--read-data"},
		{"snapshot", "diff", "first", "second"},
		{"snapshot", "du"},
		{"snapshot", "prune", "--keep-last", "1", "--dry-run"},
		{"snapshot", "export", "first", "-o", filepath.Join(out, "folder")},
		{"snapshot", "export", "first", "-o", filepath.Join(out, "layout"), "--format", "oci"},
		{"snapshot", "export", "first", "-o", filepath.Join(out, "first.tar")},
		{"snapshot", "export", "first", "-o", "-"},
		{"snapshot", "push", "first", strings.TrimPrefix(s.URL, "http://") + "/web:v1"},
		{"snapshot", "rm", "first", "--dry-run"},
		{"system", "df"},
		{"system", "info"},
		{"system", "repair", "--dry-run"},
		{"gc", "--dry-run"},
		{"gc", "--dry-run", "--explain", "--repack"},
		{"vm", "list"},
		{"image", "list"},
		{"config", "show"},
	} {
		c, _, stderr := h.command(args)
		if err := c.Run(); err != nil {
			t.Errorf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
		}
	}
	if left, err := filepath.Glob(filepath.Join(h.root, "leases", "*")); err != nil || len(left) > 0 {
		t.Errorf("leases left: %v, %v", left, err)
	}
}

// twoSnapshots of a VM that is gone.
func twoSnapshots(h *host) {
	h.must("vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
	h.counts("web")
	h.must("snapshot", "create", "web", "first")
	h.must("snapshot", "create", "web", "second")
	h.must("vm", "rm", "--force", "web")
}

func TestWhatOnlyReadsWorksOnAReadOnlyStore(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	mounted(t, h, "size=400m")
	twoSnapshots(h)
	// A view of it, as a read-only bind mount: what still has a file open does not matter.
	if err := syscall.Mount("", h.root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	readers(t, h)
	h.must("snapshot", "check", "first")
	for _, args := range [][]string{{"snapshot", "rm", "first"}, {"gc"}, {"snapshot", "rename", "first", "other"}, {"vm", "create", "x", "--from-snapshot", "first"}} {
		c, _, stderr := h.command(args)
		if err := c.Run(); err == nil || !strings.Contains(stderr.String(), "read-only file system") {
			t.Errorf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
		}
	}
}

func TestWhatOnlyReadsWorksOnAFullStore(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	mounted(t, h, "size=400m")
	twoSnapshots(h)
	fill(t, filepath.Join(h.root, "filler"))
	readers(t, h)
	if h.fits("snapshot", "check", "first") {
		t.Error("a restore is said to fit")
	}
	h.must("snapshot", "rm", "second")
	h.must("gc")
	h.clean("first")
}

// fill leaves no byte free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		b := make([]byte, n)
		for err = nil; err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

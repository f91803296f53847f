package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/immutable"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// thaw takes the attribute from every image blob below dir, so that a test's folder
// can be removed.
func thaw(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "/images/blobs/") {
			_ = immutable.Set(path, false)
		}
		return nil
	})
}

// imageBlobs are the paths of all image blobs.
func (h *host) imageBlobs() []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.root, "images", "blobs", "sha256", "*"))
	if err != nil || len(found) == 0 {
		h.t.Fatalf("image blobs: %v, %v", found, err)
	}
	return found
}

// accessModes are the access modes in which a process has a file open.
func accessModes(t *testing.T, pid int, path string) (modes []int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err != nil || to != path {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "fdinfo", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if flags, ok := strings.CutPrefix(line, "flags:"); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(flags), 8, 64)
				if err != nil {
					t.Fatal(err)
				}
				modes = append(modes, int(n)&unix.O_ACCMODE)
			}
		}
	}
	return modes
}

// TestImagesAreSharedReadOnly: however a VM came to be, its VMM has no image open for
// writing, and everybody can see that it stands on them until it ends.
func TestImagesAreSharedReadOnly(t *testing.T) {
	t.Parallel()
	eachVMM(t, func(t *testing.T, vmm string) {
		h := newHost(t, vmm)
		defer thaw(h.root)
		if err := os.WriteFile(h.work+"/base.raw", make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		h.must("vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--disk", "disk.raw", "--disk", "base.raw,readonly", "--start")
		h.must("snapshot", "create", "web", "first")
		check := func(how, name string) {
			t.Helper()
			for _, path := range h.imageBlobs() {
				if held, err := filelock.HeldAtAll(path); !held || err != nil {
					t.Errorf("%s: %s is held: %v, %v", how, path, held, err)
				}
				for _, mode := range accessModes(t, h.vm(name).PID, path) {
					if mode != unix.O_RDONLY {
						t.Errorf("%s: %s is open in mode %o", how, path, mode)
					}
				}
			}
			h.must("vm", "rm", "-f", name)
		}
		check("cold", "web")
		for _, path := range h.imageBlobs() {
			if held, err := filelock.HeldAtAll(path); held || err != nil {
				t.Errorf("%s is held after the VMM ended: %v", path, err)
			}
		}
		c, _, _ := h.command([]string{"system", "doctor", "--fix"})
		_ = c.Run() // exits 1 where there is no KVM
		for _, mode := range []string{"copy", "map", "stream"} {
			h.must("vm", "create", mode, "--from-snapshot", "first", "--restore-mode", mode)
			check(mode, mode)
		}
		h.must("snapshot", "rm", "first")
		h.must("gc")
		if left, _ := filepath.Glob(filepath.Join(h.root, "images", "blobs", "sha256", "*")); len(left) > 0 {
			t.Errorf("gc left the immutable images %v", left)
		}
	})
}

// TestDoctorGuardsImages: the mode, and the attribute where there is one; then not
// even root changes an image by a slip, and everything else goes on.
func TestDoctorGuardsImages(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	defer thaw(h.root)
	h.must("image", "import", "guest.elf", "--name", "kernel")
	path := h.imageBlobs()[0]
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	doctor := func(args ...string) string {
		c, out, _ := h.command(append([]string{"system", "doctor"}, args...))
		_ = c.Run()
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "image blobs") {
				return line
			}
		}
		t.Fatalf("the doctor says nothing of images: %s", out)
		return ""
	}
	if line := doctor(); !strings.HasPrefix(line, "warn") {
		t.Errorf("of another mode: %s", line)
	}
	if line := doctor("--fix"); !strings.HasPrefix(line, "ok") {
		t.Errorf("after the mending: %s", line)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	is, err := immutable.Is(path)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("the file system of %s has no immutable attribute: %v", path, err)
	}
	if !is || os.WriteFile(path, nil, 0o600) == nil {
		t.Errorf("immutable: %v, %v", is, err)
	}
	h.must("image", "import", "guest.elf", "--name", "again") // its blob is there
	h.must("vm", "create", "web", "--image", "kernel", "--memory", "64M")
	h.must("image", "import", "disk.raw", "--name", "disk")
	if line := doctor(); !strings.Contains(line, "1 of them immutable") {
		t.Errorf("a new one beside it: %s", line)
	}
	h.must("vm", "rm", "web")
	h.must("image", "rm", "kernel", "again")
	h.must("gc")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("gc left it: %v", err)
	}
}

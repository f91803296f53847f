package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestFullDisk runs the main job on stores of several sizes: each command
// succeeds or ends with exit code 8, the guest runs, and what was published
// before is whole.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	for _, mib := range []int{1, 9, 24, 64, 100, 140, 200, 400} {
		t.Run(fmt.Sprintf("%d MiB", mib), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm)
			if err := os.Mkdir(h.root, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", h.root, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", mib)); err != nil {
				t.Skipf("cannot mount a tmpfs here: %v", err)
			}
			t.Cleanup(func() {
				killLeftovers(h.run)
				if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			if !h.fits("vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start") {
				return
			}
			v := h.vm("web")
			h.counts("web")
			var kept []string
			for i := range 4 {
				name := fmt.Sprintf("s%d", i)
				if h.fits("snapshot", "create", "web", name, "--parent", "none") {
					kept = append(kept, name)
				}
				h.runsWithin(v, 100*time.Millisecond)
			}
			if len(kept) > 0 && h.fits("vm", "create", "again", "--from-snapshot", kept[0]) {
				h.counts("again")
			}
			h.clean(kept...)
			h.counts("web")
		})
	}
}

// TestExportWithoutRoom: it is refused before anything is written where it is
// to go, whatever room the store has.
func TestExportWithoutRoom(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.must("vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
	h.counts("web")
	h.must("snapshot", "create", "web", "first")
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=4m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if h.fits("snapshot", "export", "first", "-o", small+"/out") {
		t.Error("64 MiB of RAM fit into 4 MiB")
	}
	left, err := os.ReadDir(small)
	if err != nil || len(left) > 0 {
		t.Errorf("the export left %v, %v", left, err)
	}
}

// fits tells whether a command succeeded; one that did not must say that the
// space is short.
func (h *host) fits(args ...string) bool {
	h.t.Helper()
	c, _, stderr := h.command(args)
	err := c.Run()
	if err == nil {
		return true
	}
	if code := c.ProcessState.ExitCode(); code != 8 || !strings.HasPrefix(stderr.String(), "cocoon: ") {
		h.t.Errorf("cocoon %s: exit code %d, want 8: %s", strings.Join(args, " "), code, stderr)
	}
	for _, folder := range []string{"ingest", "leases", "journals"} {
		left, _ := os.ReadDir(h.root + "/" + folder)
		if names := slices.Collect(func(yield func(string) bool) {
			for _, e := range left {
				if !yield(e.Name()) {
					return
				}
			}
		}); len(names) > 0 {
			h.t.Errorf("cocoon %s left %s/%v", strings.Join(args, " "), folder, names)
		}
	}
	return false
}

// TestAPlanTouchesNothing: what is only planned has the cache give up nothing,
// though it says that RAM would go; what is done then does.
func TestAPlanTouchesNothing(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h.root = filepath.Join(disk, "root")
	h.env = append(h.env, "COCOON_ROOT_DIR="+h.root)
	h.boot("web")
	for _, name := range []string{"a", "b"} {
		h.must("snapshot", "create", "web", name)
		h.counts("web")
	}
	h.must("vm", "create", "x", "--from-snapshot", "a", "--restore-mode", "map")
	h.must("vm", "rm", "-f", "x")
	cached := func() string {
		names, err := os.ReadDir(filepath.Join(h.root, "cache", "memory"))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(names)
	}
	before := cached()
	free, _, err := hostfacts.FreeBytes(disk)
	if err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(filepath.Join(disk, "filler"))
	if err == nil {
		err = errors.Join(syscall.Fallocate(int(fill.Fd()), 0, 0, free-40<<20), fill.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, plan := range [][]string{
		{"vm", "create", "y", "--from-snapshot", "b", "--restore-mode", "map", "--dry-run"},
		{"vm", "restore", "web", "b", "--restore-mode", "map", "--dry-run"},
	} {
		if said := h.must(plan...); !strings.Contains(said, `"freesBytes": `) {
			t.Errorf("%q does not say what goes: %s", plan, said)
		}
	}
	h.must("snapshot", "check", "b")
	if after := cached(); after != before {
		t.Errorf("the cache held %s, and holds %s after plans", before, after)
	}
	h.must("vm", "create", "y", "--from-snapshot", "b", "--restore-mode", "map")
	if after := cached(); after == before || strings.Contains(after, before) {
		t.Errorf("the cache holds %s", after)
	}
	h.counts("y")
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestCaptureWhereFilesClone takes both kinds of capture on a file system that
// shares blocks: the disk in the snapshot is that of the moment, and the trial
// clone leaves nothing.
func TestCaptureWhereFilesClone(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	if err := os.Mkdir(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "xfs.img")
	for _, argv := range [][]string{
		{"truncate", "-s", "1G", image},
		{"mkfs.xfs", "-q", "-m", "reflink=1", image},
		{"mount", "-o", "loop", image, h.root},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no XFS to be had here: %s: %v: %s", argv[0], err, out)
		}
	}
	t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	v := h.boot("web")
	disk := filepath.Join(h.root, "vms", v.ID, "disk-0.raw")
	if _, err := clone.TryReflink(disk+".trial", disk); err != nil {
		t.Fatalf("the file system does not clone: %v", err)
	}
	for _, mode := range []string{"live", "file"} {
		h.must("snapshot", "create", "web", mode, "--capture", mode)
		h.must("vm", "create", "from-"+mode, "--from-snapshot", mode)
		h.counts("from-" + mode) // it compares its disk with its RAM
		h.must("vm", "rm", "-f", "from-"+mode)
	}
	h.bare()
	h.clean("live", "file")
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestADiskThatLooksLikeAnImageStrandsNoRAM: the VMM opens no raw disk on which
// the guest has written the header of another format. So a VM with one is neither
// saved nor suspended, also when the guest writes it in the last moment; one that
// got it while it slept stays asleep until it is gone.
func TestADiskThatLooksLikeAnImageStrandsNoRAM(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	disk := filepath.Join(h.root, "vms", v.ID, "disk-0.raw")
	write := func(head string) {
		t.Helper()
		f, err := os.OpenFile(disk, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(head), 0); err != nil {
			t.Fatal(err)
		}
	}
	const qcow2, nothing = "QFI\xfb", "\x00\x00\x00\x00"
	write(qcow2)
	for _, verb := range [][]string{{"vm", "suspend", "web"}, {"snapshot", "create", "web", "never"}, {"snapshot", "create", "web", "never", "--capture", "file"}} {
		h.refuses(6, "disk 0: the ends of the disk look like a qcow2", verb...)
	}
	h.state("web", "running")
	h.counts("web")
	write(nothing)
	h.must("snapshot", "create", "web", "saved")

	c, stderr := h.stopped("vm.suspend.paused", "vm", "suspend", "web")
	write(qcow2)
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 6 || !strings.Contains(stderr.String(), "qcow2") {
		t.Errorf("written in the last moment: exit code %d: %s", code, stderr)
	}
	h.state("web", "running")
	h.counts("web")
	write(nothing)

	h.must("vm", "suspend", "web")
	last := h.tick("web")
	write(qcow2)
	h.refuses(6, "qcow2", "vm", "start", "web")
	h.state("web", "suspended")
	write(nothing)
	h.must("vm", "start", "web")
	h.goesOn("web", last)

	h.must("vm", "stop", "web", "--timeout", "1s")
	write(qcow2)
	h.refuses(6, "qcow2", "vm", "start", "web")
	write(nothing)
	h.must("vm", "start", "web")
	h.counts("web")
	h.clean("saved")
}

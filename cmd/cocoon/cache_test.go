package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// mode is how a VM was restored.
func (h *host) mode(name string) string {
	h.t.Helper()
	var rows []struct {
		Restore struct{ Mode string }
	}
	if err := json.Unmarshal([]byte(h.must("vm", "inspect", name)), &rows); err != nil {
		h.t.Fatal(err)
	}
	return rows[0].Restore.Mode
}

// base is the inode of the RAM file that a VM maps.
func (h *host) base(name string) uint64 {
	h.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(h.root, "vms", h.vm(name).ID, "memory.base"), &st); err != nil {
		h.t.Fatal(err)
	}
	return st.Ino
}

// TestClonesWaitForOneMaterialiser: while one process makes the RAM file, others
// that want it wait, and all map the same one.
func TestClonesWaitForOneMaterialiser(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	maker, _ := h.stopped("restore.materialised", "vm", "create", "a", "--from-snapshot", "base", "--restore-mode", "map")
	var waiting []*exec.Cmd
	ended := make(chan error, 2)
	for _, name := range []string{"b", "c"} {
		c, _, _ := h.command([]string{"vm", "create", name, "--from-snapshot", "base", "--restore-mode", "map"})
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
		go func() { ended <- c.Wait() }()
	}
	select {
	case err := <-ended:
		t.Errorf("a clone did not wait for the file that is being made: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := maker.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := maker.Wait(); err != nil {
		t.Fatal(err)
	}
	for range waiting {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if a, b, c := h.base("a"), h.base("b"), h.base("c"); a != b || b != c {
		t.Errorf("the clones map different files: %d %d %d", a, b, c)
	}
	for _, name := range []string{"a", "b", "c"} {
		h.counts(name)
	}
	// A maker that dies lets the next one begin anew.
	h.must("vm", "rm", "-f", "a", "b", "c")
	h.must("gc", "--cache-max-bytes", "0")
	h.killed("restore.materialised", "vm", "create", "d", "--from-snapshot", "base", "--restore-mode", "map")
	h.must("vm", "create", "d", "--from-snapshot", "base", "--restore-mode", "map")
	h.counts("d")
	h.clean("base")
}

// TestTheCacheIsMadeAhead: the first clone is streamed, and a process in the
// background makes the file that the next one maps.
func TestTheCacheIsMadeAhead(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.env = append(h.env, "COCOON_CACHE_AHEAD=on")
	h.must("vm", "create", "first", "--from-snapshot", "base")
	if got := h.mode("first"); got != "stream" {
		t.Errorf("the first clone was restored by %s, want stream", got)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, _ := os.ReadDir(filepath.Join(h.root, "cache", "memory"))
		leases, _ := os.ReadDir(filepath.Join(h.root, "leases"))
		if len(files) == 1 && !strings.HasSuffix(files[0].Name(), ".new") && len(leases) == 0 {
			break
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(h.run, "materialise.log"))
			t.Fatalf("the file was not made: %v, leases %v: %s", files, leases, log)
		}
	}
	h.must("vm", "create", "second", "--from-snapshot", "base")
	if got := h.mode("second"); got != "map" {
		t.Errorf("the second clone was restored by %s, want map", got)
	}
	h.counts("second")
	h.must("gc") // keeps what is below the cap
	h.must("vm", "rm", "-f", "second")
	h.must("vm", "create", "third", "--from-snapshot", "base")
	if got := h.mode("third"); got != "map" {
		t.Errorf("the third clone was restored by %s, want map", got)
	}
	h.clean("base")
}

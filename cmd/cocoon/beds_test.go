package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// names are those of the snapshots that have one.
func (h *host) names() string {
	h.t.Helper()
	return strings.Join(strings.Fields(h.must("snapshot", "list", "--sort", "name", "--format", "{{.Name}}")), " ")
}

// beds are the snapshots that are only there for a VM to sleep on.
func (h *host) beds() []string {
	h.t.Helper()
	return strings.Fields(h.must("snapshot", "list", "-q", "--filter", "label=cocoon.suspend"))
}

// TestNoRuleCountsWhatAVMWasToSleepOn: a suspend that was killed leaves a snapshot
// that gc takes. Were it the newest of its VM to any rule, the VM had none after
// that.
func TestNoRuleCountsWhatAVMWasToSleepOn(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	allAtOnce(t, map[string][]string{
		"keep-last":      {"snapshot", "prune", "--keep-last", "1"},
		"max":            {"snapshot", "prune", "--max", "1"},
		"within":         {"snapshot", "prune", "--keep-within", "1ms"},
		"max-store-size": {"snapshot", "prune", "--max-store-size", "1"},
		"gc --prune":     {"gc", "--prune"},
	}, func(t *testing.T, args []string) {
		h := newHost(t, sim, "COCOON_PRUNE_KEEP_LAST=1")
		h.boot("web")
		h.must("snapshot", "create", "web", "only")
		h.killed("store.commit.published", "vm", "suspend", "web")
		if beds := h.beds(); len(beds) != 1 {
			t.Fatalf("a suspend that was killed left %v", beds)
		}
		c, _, stderr := h.command(args)
		if err := c.Run(); err != nil && c.ProcessState.ExitCode() != 4 { // more than 1 byte stays
			t.Fatalf("%v: %s", err, stderr)
		}
		h.clean("only")
		if beds := h.beds(); len(beds) > 0 {
			t.Errorf("gc leaves %v", beds)
		}
	})
}

// TestAMaxOfCreateDoesNotCountWhatAVMWasToSleepOn.
func TestAMaxOfCreateDoesNotCountWhatAVMWasToSleepOn(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	h.must("snapshot", "create", "web", "first")
	h.killed("store.commit.published", "vm", "suspend", "web")
	h.must("snapshot", "create", "web", "second", "--max", "2")
	if names := h.names(); names != "first second" {
		t.Errorf("the snapshots are %q", names)
	}
	h.clean("first", "second")
}

// TestASleepingVMKeepsItsSnapshots: what it sleeps on takes the place of none.
func TestASleepingVMKeepsItsSnapshots(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	h.must("snapshot", "create", "web", "only")
	h.must("vm", "suspend", "web")
	last := h.tick("web")
	h.must("snapshot", "prune", "--keep-last", "1", "--max", "1")
	h.fails(nil, "snapshot", "prune", "--max-store-size", "1")
	h.must("vm", "start", "web")
	h.goesOn("web", last)
	h.clean("only")
}

// TestARemovalThatWaitsForASuspendTakesItsSnapshot, which nobody sleeps on then.
func TestARemovalThatWaitsForASuspendTakesItsSnapshot(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VMM_TIMEOUT=5m") // no guard ends what stands still
	h.boot("web")
	h.must("snapshot", "create", "web", "only")
	suspend, said := h.stopped("vm.suspend.paused", "vm", "suspend", "web")
	rm, _, stderr := h.command([]string{"vm", "rm", "--force", "web"})
	if err := rm.Start(); err != nil {
		t.Fatal(err)
	}
	h.until("the removal waits for the VM", func() bool { return h.opens(rm.Process.Pid, filepath.Join(h.root, "vms")) })
	if err := suspend.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(suspend.Wait(), rm.Wait()); err != nil {
		t.Fatalf("%v: %s, %s", err, said, stderr)
	}
	if beds := h.beds(); len(beds) > 0 {
		t.Errorf("left behind: %v", beds)
	}
	h.bare()
	h.clean("only")
}

// opens tells whether a process has a lock below a folder open.
func (h *host) opens(pid int, folder string) bool {
	h.t.Helper()
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if path, err := os.Readlink(fd); err == nil && strings.HasPrefix(path, folder) && strings.HasSuffix(path, "lock") {
			return true
		}
	}
	return false
}

// TestACaptureThatIsInterruptedWhenItIsDoneSaysNothingFalse: what is published is
// there, and nobody says that nothing is left of it.
func TestACaptureThatIsInterruptedWhenItIsDoneSaysNothingFalse(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	c, stderr := h.stopped("store.commit.published", "snapshot", "create", "web", "done")
	if err := errors.Join(c.Process.Signal(syscall.SIGINT), c.Process.Signal(syscall.SIGCONT)); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	if left := h.names() == "done"; left == strings.Contains(stderr.String(), "nothing is left") {
		t.Errorf("the snapshot is there: %v; the command ended with %v: %s", left, err, stderr)
	}
	h.counts("web")
	h.clean()
}

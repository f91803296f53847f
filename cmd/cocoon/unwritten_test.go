package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// onSmallDisk gives a host whose store has a file system of its own, and what
// fills it and empties it again.
func onSmallDisk(t *testing.T) (h *host, fill, empty func()) {
	t.Helper()
	vmm, _ := chsnaptest.VMM(t)
	h = newHost(t, vmm, "COCOON_VM_STOP_TIMEOUT=200ms")
	if err := os.Mkdir(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.root, "tmpfs", 0, "size=300m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(h.root, "ballast")
	return h, func() { fillUp(t, ballast) }, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// coded runs a command that has to end with this code, and answers what it said.
func (h *host) coded(code int, args ...string) string {
	h.t.Helper()
	c, out, stderr := h.command(args)
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != code {
		h.t.Errorf("cocoon %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, stderr)
	}
	return out.String() + stderr.String()
}

// TestAStartThatCannotBeWrittenDownEndsWhatItStarted: a VMM of which no record
// could be made does not live on, whatever it was started for.
func TestAStartThatCannotBeWrittenDownEndsWhatItStarted(t *testing.T) {
	t.Parallel()
	h, fill, empty := onSmallDisk(t)
	h.boot("web")
	h.must("snapshot", "create", "web", "first")
	h.must("vm", "create", "fresh", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M")
	h.must("vm", "create", "asleep", "--from-snapshot", "first")
	h.must("vm", "suspend", "asleep")
	none := func(after string) {
		t.Helper()
		if live := h.vmms(); len(live) > 0 {
			t.Errorf("after %s VMMs %v live", after, live)
		}
	}
	fill()
	h.coded(8, "vm", "stop", "web")
	none("vm stop")
	for _, args := range [][]string{
		{"vm", "start", "web"},
		{"vm", "start", "fresh"},
		{"vm", "start", "asleep"},
		{"vm", "start", "--cold", "asleep"},
		{"vm", "create", "new", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start"},
		{"vm", "create", "again", "--from-snapshot", "first"},
		{"vm", "create", "again", "--from-snapshot", "first", "--restore-mode", "stream"},
	} {
		h.coded(8, args...)
		none(strings.Join(args, " "))
	}
	empty()
	h.clean("first")
	for _, name := range []string{"web", "fresh", "asleep"} {
		h.must("vm", "start", name)
		h.counts(name)
	}
}

// TestAVMMYoungerThanItsRecord: its starter was killed before it wrote it down, and
// what the record names has ended. It is found by the run folder.
func TestAVMMYoungerThanItsRecord(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	before := map[string][]string{"new": nil, "ended": {"start"}, "stopped": {"start", "stop"}}
	then := map[string][]string{
		"stop": {"vm", "stop", "web"}, "start": {"vm", "start", "web"}, "rm": {"vm", "rm", "--force", "web"}, "gc": {"gc"},
	}
	for was, first := range before {
		for verb, args := range then {
			for _, step := range []string{"vm.launched", "vm.booted"} { // before vmm.json names it, and after
				t.Run(was+step+verb, func(t *testing.T) {
					t.Parallel()
					h := newHost(t, vmm, "COCOON_VM_STOP_TIMEOUT=200ms")
					h.must("vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M")
					for _, v := range first {
						h.must("vm", v, "web")
					}
					if v := h.vm("web"); v.PID != 0 {
						h.signal(v.PID, syscall.SIGKILL)
						h.ended("web")
					}
					h.killed(step, "vm", "start", "web")
					var left []string // it forks before it is what it will be
					h.until("one VMM lives", func() bool { left = h.vmms(); return len(left) == 1 })
					if said := h.must("vm", "list"); strings.Contains(said, "elsewhere") || !strings.Contains(said, "never written down") {
						t.Errorf("the list does not say that a VMM lives: %s", said)
					}
					h.must(args...)
					after := h.vmms()
					if slices.Contains(after, left[0]) || (len(after) > 0) != (verb == "start") {
						t.Errorf("%v: before %v, after %v", args, left, after)
					}
					if verb == "stop" || verb == "gc" {
						h.must("vm", "start", "web")
					}
					if verb != "rm" {
						h.counts("web")
					}
					h.clean()
				})
			}
		}
	}
}

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// tick is the last counter that the guest printed.
func (h *host) tick(name string) uint32 {
	h.t.Helper()
	ram, _, ok := guest.LastTick([]byte(h.must("vm", "logs", name) + "\n"))
	if !ok {
		h.t.Fatalf("guest %s has printed no counter", name)
	}
	return ram
}

// goesOn holds a VM that was woken against the last counter that it printed
// before: it has not booted, and no count is missing but one that was not
// printed any more.
func (h *host) goesOn(name string, last uint32) {
	h.t.Helper()
	h.counts(name)
	log := h.must("vm", "logs", name)
	for line := range strings.Lines(log) {
		if first, _, ok := guest.ParseTick(line); ok {
			if first <= last || first > last+2 {
				h.t.Errorf("guest %s goes on at %d, it had printed %d", name, first, last)
			}
			return
		}
		if strings.HasPrefix(line, "BOOT") {
			h.t.Fatalf("guest %s has booted", name)
		}
	}
}

func (h *host) state(name, want string) {
	h.t.Helper()
	if v := h.vm(name); v.State != want {
		h.t.Fatalf("VM %s is %s (%s), want %s", name, v.State, v.LastError, want)
	}
}

func (h *host) noSnapshots() {
	h.t.Helper()
	if left := h.must("snapshot", "list", "-q"); left != "" {
		h.t.Errorf("snapshots are left: %s", left)
	}
}

// killSuspends: before the VM sleeps a kill lets the guest go on at once, from
// then on it sleeps; before it is awake a kill leaves it asleep, from then on
// the next command lets it go on.
func killSuspends(h *host) {
	v := h.boot("web")
	asleep := slices.Index(suspendSteps, "vm.suspend.asleep")
	for _, step := range suspendSteps[:asleep] {
		h.killed(step, "vm", "suspend", "web")
		h.runsWithin(v, 5*time.Second)
		h.state("web", "running")
		h.counts("web")
		h.clean()
		h.noSnapshots()
	}
	for _, step := range suspendSteps[asleep:] {
		h.killed(step, "vm", "suspend", "web")
		h.state("web", "suspended")
		h.clean()
		last := h.tick("web")
		h.must("vm", "start", "web")
		h.goesOn("web", last)
		h.noSnapshots()
	}
	for _, step := range append([]string{"restore.streaming"}, wakeSteps...) {
		mode := "map"
		if step == "restore.streaming" {
			mode = "stream"
		}
		h.must("vm", "suspend", "web")
		last := h.tick("web")
		h.killed(step, "vm", "start", "web", "--restore-mode", mode)
		if step != "wake.awake" && step != "wake.resume" {
			h.state("web", "suspended")
			h.clean()
			h.must("vm", "start", "web")
		}
		h.state("web", "running")
		h.goesOn("web", last)
		h.clean()
		h.noSnapshots()
	}
}

// fails runs a command that has to fail and answers what it said.
func (h *host) fails(env []string, args ...string) string {
	h.t.Helper()
	c, out, stderr := h.command(args, env...)
	if err := c.Run(); err == nil {
		h.t.Fatalf("cocoon %s worked: %s", strings.Join(args, " "), out)
	}
	return stderr.String()
}

// TestAFailedSuspendLetsTheGuestGoOn, whatever the VMM does.
func TestAFailedSuspendLetsTheGuestGoOn(t *testing.T) {
	t.Parallel()
	for _, fail := range []string{"vm.pause=fail", "vm.pause=late-fail", "migration.Memory=fail", "migration.State=fail", "migration.Complete=stall"} {
		t.Run(fail, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, chsnaptest.Build(t), "CHSIM_FAIL="+fail, "COCOON_VMM_TIMEOUT=3s")
			v := h.boot("web")
			h.fails(nil, "vm", "suspend", "web")
			h.runsWithin(v, time.Second)
			h.state("web", "running")
			h.counts("web")
			h.clean()
			h.noSnapshots()
		})
	}
}

// TestAFailedWakeLeavesTheVMSuspended, and the next one works.
func TestAFailedWakeLeavesTheVMSuspended(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	for fail, mode := range map[string]string{
		"vm.restore=fail": "map", "vm.restore=die": "map", "vm.resume=fail": "map",
		"receive.state=fail": "stream", "receive.lane=die": "stream",
	} {
		h.must("vm", "suspend", "web")
		last := h.tick("web")
		if said := h.fails([]string{"CHSIM_FAIL=" + fail}, "vm", "start", "web", "--restore-mode", mode); !strings.Contains(said, "still suspended") {
			t.Errorf("%s: %s", fail, said)
		}
		h.state("web", "suspended")
		h.clean()
		h.must("vm", "start", "web")
		h.goesOn("web", last)
		h.clean()
		h.noSnapshots()
	}
	// A VMM that dies when the guest is to go on may have let it write.
	h.must("vm", "suspend", "web")
	h.fails([]string{"CHSIM_FAIL=vm.resume=late-die"}, "vm", "start", "web")
	h.state("web", "error")
	h.must("vm", "start", "web")
	h.counts("web")
	h.clean()
	h.noSnapshots()
}

// TestSuspendAndWakeTwice on the real VMM where it works: a VM that was woken,
// and maps the RAM it was woken with, sleeps and wakes like any other.
func TestSuspendAndWakeTwice(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	for _, mode := range []string{"map", "copy", "stream", "auto"} {
		h.must("vm", "suspend", "web")
		last := h.tick("web")
		h.must("vm", "start", "web", "--restore-mode", mode)
		h.goesOn("web", last)
	}
	h.must("vm", "stop", "web", "--timeout", "1s")
	h.must("vm", "start", "web")
	h.counts("web")
	if !bytes.Contains([]byte(h.must("vm", "logs", "web")), []byte("BOOT")) {
		t.Error("a stopped VM did not boot")
	}
	h.clean()
}

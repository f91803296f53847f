package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// quick makes a guard bear as little silence as it ever does.
const quick = "COCOON_VMM_TIMEOUT=9s"

// TestAStoppedCommandGivesTheGuestBack: a command that is stopped while a guest
// stands still for it (SIGSTOP here; ^Z, a debugger, a freezer) is ended by its
// guard. The guest goes on, nothing is published, and the VM is free.
func TestAStoppedCommandGivesTheGuestBack(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	save := func(mode string) func(*host, []string) {
		return func(h *host, steps []string) {
			h.stoppedAt(steps, "snapshot", "create", "web", "never", "--capture", mode)
		}
	}
	type verb struct {
		steps []string
		stops func(h *host, steps []string)
	}
	allAtOnce(t, map[string]verb{
		"file": {pauseSteps, save("file")},
		"live": {streamSteps[slices.Index(streamSteps, "migration.memory"):], save("live")},
		"suspend": {suspendSteps[:slices.Index(suspendSteps, "vm.suspend.asleep")], func(h *host, steps []string) {
			h.stoppedAt(steps, "vm", "suspend", "web")
		}},
		"restore in place": {slices.Concat([]string{"vm.suspend.paused", "store.commit.published", "vm.suspend.asleep", "vm.suspend.ended"}, becomeSteps[:len(becomeSteps)-1]), (*host).stoppedInPlace},
	}, func(t *testing.T, v verb) { v.stops(newHost(t, vmm, quick), v.steps) })
}

// stoppedAt stops a command that lets the guest stand still at each of its steps.
func (h *host) stoppedAt(steps []string, args ...string) {
	h.t.Helper()
	v := h.boot("web")
	for _, step := range steps {
		if h.endedByItsGuard(step, args...) {
			h.must("vm", "start", "web") // it was quicker than the signal: all is done, not half
			v = h.vm("web")
		}
		h.runsWithin(v, 100*time.Millisecond)
		h.counts("web")
		h.bare()
		h.clean()
		h.noSnapshots()
	}
}

// stoppedInPlace stops a restore in place at each of its steps.
func (h *host) stoppedInPlace(steps []string) {
	h.t.Helper()
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, step := range steps {
		_ = h.endedByItsGuard(step, "vm", "restore", "web", "base", "--restore-mode", "map") // it runs in any case
		h.state("web", "running")
		h.counts("web")
		h.oneDisk("web")
		h.clean("base")
		h.noFormerState()
	}
}

// endedByItsGuard stops a command at a step and waits for its end; asleep says
// that the VM of a suspend is suspended by then.
func (h *host) endedByItsGuard(step string, args ...string) (asleep bool) {
	h.t.Helper()
	c, stderr := h.stopped(step, args...)
	err := c.Wait()
	if err == nil && step == "store.commit.published" {
		return true
	}
	code, want := c.ProcessState.ExitCode(), 130
	// It comes there again when it undoes, and is stopped again, unless all was done
	// but to forget what the VM was before it saw the signal.
	if step == "vm.wake.saved" && (code != 130 || strings.Contains(stderr.String(), "goes on as it was")) {
		want = -1
	}
	if code != want {
		h.t.Errorf("stopped at %s: exit code %d (%v), want %d: %s", step, code, err, want, stderr)
	}
	if !strings.Contains(stderr.String(), "stood still for 3s while a guest waited for it") {
		h.t.Errorf("stopped at %s: the reason is not told: %s", step, stderr)
	}
	return false
}

// TestResumeEndsAStoppedCommand: it does not wait for the guard, and says what
// to do where it is not its turn.
func TestResumeEndsAStoppedCommand(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VMM_TIMEOUT=5m") // the guard's turn comes later
	v := h.boot("web")
	for step, mode := range map[string]string{"capture.saved": "file", "migration.state": "live", "migration.complete": "live"} {
		c, stderr := h.stopped(step, "snapshot", "create", "web", "never", "--capture", mode)
		h.must("vm", "resume", "web")
		h.runsWithin(v, 0)
		err := c.Wait()
		if code := c.ProcessState.ExitCode(); code != 130 {
			t.Errorf("stopped at %s: exit code %d (%v), want 130: %s", step, code, err, stderr)
		}
		h.bare()
		h.clean()
		h.noSnapshots()
	}
	c, _ := h.stopped("capture.saved", "snapshot", "create", "web", "never", "--capture", "file")
	busy, _, stderr := h.command([]string{"vm", "pause", "web"}, "COCOON_VMM_TIMEOUT=100ms")
	_ = busy.Run()
	want := fmt.Sprintf("hint: process %d is stopped: kill -CONT %[1]d", c.Process.Pid)
	if code := busy.ProcessState.ExitCode(); code != 7 || !strings.Contains(stderr.String(), want) {
		t.Errorf("another verb: exit code %d, want 7: %s", code, stderr)
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Error("a command that was stopped for a moment fails:", err)
	}
	h.clean("never")
	h.counts("web")
}

// TestAGuardIsReplaced: one that is killed or stopped leaves nobody unguarded.
func TestAGuardIsReplaced(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	allAtOnce(t, map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP}, func(t *testing.T, sig syscall.Signal) {
		h := newHost(t, sim, quick, "CHSIM_FAIL=vm.snapshot=slow:15s")
		v := h.boot("web")
		steps := filepath.Join(t.TempDir(), "steps")
		c, _, _ := h.command([]string{"snapshot", "create", "web", "never", "--capture", "file"}, durable.StepLog+"="+steps)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		h.until("it pauses", func() bool {
			b, _ := os.ReadFile(steps)
			return strings.Contains(string(b), "capture.paused")
		})
		first := h.guardOf(c.Process.Pid, 0)
		if err := syscall.Kill(first, sig); err != nil {
			t.Fatal(err)
		}
		h.guardOf(c.Process.Pid, first)
		h.gone(first) // until then both have the command's stderr
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.Wait()
		h.runsWithin(v, time.Minute)
		h.clean()
		h.counts("web")
	})
}

// guardOf waits for a guard of a process that is not the one that was there
// before.
func (h *host) guardOf(pid, before int) (guard int) {
	h.t.Helper()
	h.until("it has a guard", func() bool {
		for _, child := range children(h.t, pid) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
			if child != before && bytes.Contains(line, []byte(house.GuardVerb)) {
				guard = child
			}
		}
		return guard != 0
	})
	return guard
}

// until polls for some minutes: a real guest is slow on a busy machine.
func (h *host) until(what string, so func() bool) {
	h.t.Helper()
	for end := time.Now().Add(4 * time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited in vain until %s", what)
		}
	}
}

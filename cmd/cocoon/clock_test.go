package main

import (
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAGuestsClockMayStandStill in each way that its RAM can come; a VM that was
// asleep and one that is restored in place too.
func TestAGuestsClockMayStandStill(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, mode := range []string{"map", "stream", "copy"} {
		h.must("vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode, "--guest-clock", "stand-still")
		h.counts(mode)
		h.must("vm", "rm", "--force", mode)
	}
	if plan := h.must("vm", "create", "x", "--from-snapshot", "base", "--guest-clock", "stand-still", "--dry-run"); !strings.Contains(plan, `"guestClock": "stand-still"`) {
		t.Errorf("the plan does not say how the clock goes on: %s", plan)
	}
	h.must("vm", "suspend", "web")
	h.must("vm", "start", "web", "--guest-clock", "stand-still")
	h.counts("web")
	h.must("vm", "restore", "web", "base", "--guest-clock", "stand-still")
	h.counts("web")
	for _, args := range [][]string{
		{"vm", "create", "x", "--from-snapshot", "base", "--guest-clock", "stop"},
		{"vm", "create", "x", "--from-snapshot", "base", "--guest-clock", "stand-still", "--cold"},
		{"vm", "create", "x", "--kernel", "guest.elf", "--guest-clock", "stand-still"},
	} {
		c, _, stderr := h.command(args)
		_ = c.Run() // its exit code is looked at
		if c.ProcessState.ExitCode() != 2 || !strings.Contains(stderr.String(), "--guest-clock") {
			t.Errorf("cocoon %s: exit code %d: %s", strings.Join(args, " "), c.ProcessState.ExitCode(), stderr)
		}
	}
}

package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestStopSaysHowItEnded: on stderr, and in vm inspect until the VM runs again.
func TestStopSaysHowItEnded(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	for _, c := range []struct {
		name, reason, said string
		button             string // of the simulator
		paused             bool
		timeout            []string
	}{
		{name: "the guest follows", reason: vm.PoweredOff, said: "web: powered off: by itself after "},
		{name: "the guest is deaf", reason: vm.PowerCut, said: "web: power cut: it did not power itself off within 300ms", button: "ignore", timeout: []string{"--timeout", "300ms"}},
		{name: "the guest was booting", reason: vm.PoweredOff, said: "web: powered off: by itself after ", button: "late"},
		{name: "the guest stands still", reason: vm.PowerCut, said: "web: power cut: it was paused", paused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, sim, "COCOON_VM_STOP_TIMEOUT=1m")
			h.env = append(h.env, "CHSIM_POWER_BUTTON="+c.button)
			h.boot("web")
			if c.paused {
				h.must("vm", "pause", "web")
			}
			if said := h.says(append([]string{"vm", "stop", "web"}, c.timeout...)...); !strings.HasPrefix(said, c.said) {
				t.Errorf("vm stop says %q, want %q", said, c.said)
			}
			v := h.vm("web")
			if v.State != "stopped" || v.Exit == nil || v.Exit.Reason != c.reason || time.Since(v.Exit.At) > time.Minute {
				t.Errorf("state %s, exit %+v, want %s", v.State, v.Exit, c.reason)
			}
			h.must("vm", "start", "web")
			if v := h.vm("web"); v.Exit != nil {
				t.Errorf("a running VM has ended: %+v", v.Exit)
			}
		})
	}
}

// TestAStopThatIsInterruptedCutsNoPower: who does not want to wait any longer
// has not asked for that.
func TestAStopThatIsInterruptedCutsNoPower(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t), "CHSIM_POWER_BUTTON=ignore")
	v := h.boot("web")
	h.interrupted(v, syscall.SIGINT, "vm.stop.asked", "vm", "stop", "web")
	if now := h.vm("web"); now.State != "running" || now.PID != v.PID {
		t.Errorf("%s, process %d, before %d", now.State, now.PID, v.PID)
	}
	h.counts("web")
}

// says runs a command that has to succeed and answers its stderr.
func (h *host) says(args ...string) string {
	h.t.Helper()
	c, _, stderr := h.command(args)
	if err := c.Run(); err != nil {
		h.t.Fatalf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	return stderr.String()
}

// TestVMsStopSideBySide: those that are deaf keep nobody waiting.
func TestVMsStopSideBySide(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t), "CHSIM_POWER_BUTTON=ignore")
	h.boot("a")
	h.boot("b")
	begun := time.Now()
	said := h.says("vm", "stop", "a", "b", "--timeout", "3s")
	if !strings.Contains(said, "a: power cut") || !strings.Contains(said, "b: power cut") {
		t.Errorf("vm stop says %q", said)
	}
	first, last := h.vm("a").Exit.At, h.vm("b").Exit.At
	if apart := last.Sub(first).Abs(); apart > 2500*time.Millisecond {
		t.Errorf("they ended %s apart, and it took %s", apart, time.Since(begun))
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAGuestThatIsShutDownIsSeen: a VMM may live on when its guest is off. Every
// verb says so, none waits for it, none of other VMs notices.
func TestAGuestThatIsShutDownIsSeen(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	h.boot("other")
	if err := chsnap.NewClient(v.APISocket, 0).Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	h.state("web", "shutdown")
	if list := h.must("vm", "list", "--format", "{{.Name}} {{.State}}"); !strings.Contains(list, "web shutdown") {
		t.Errorf("vm list says %s", list)
	}
	for _, args := range [][]string{
		{"vm", "suspend", "web"},
		{"snapshot", "create", "web", "never"},
		{"snapshot", "create", "web", "never", "--capture", "file"},
		{"snapshot", "create", "web", "--dry-run"},
		{"vm", "pause", "web"},
		{"vm", "resume", "web"},
		{"vm", "start", "web"},
	} {
		c, _, stderr := h.command(args)
		_ = c.Run()
		said := stderr.String()
		if code := c.ProcessState.ExitCode(); code != 4 || !strings.Contains(said, "shut") || !strings.Contains(said, "hint: cocoon vm stop web, then cocoon vm start web") {
			t.Errorf("%v: exit code %d, want 4: %s", args, code, said)
		}
	}
	h.must("snapshot", "create", "other", "fine")
	h.bare()
	h.must("vm", "stop", "web", "--timeout", "1s")
	h.must("vm", "start", "web")
	h.counts("web")
	h.clean("fine")
}

// TestAVMMInTroubleCostsOthersAGlance: one that stands still in a capture is told
// once in full patience. Afterwards every command goes on at once, says in what
// state it is, and what helps does.
func TestAVMMInTroubleCostsOthersAGlance(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	type trouble struct{ fail, mode, state string }
	allAtOnce(t, map[string]trouble{
		"pause":     {"vm.pause=hang", "file", "running (not answering)"},
		"snapshot":  {"vm.snapshot=hang", "file", "running (not answering)"},
		"migration": {"migration.Memory=hang#2", "live", "running (frozen)"},
	}, func(t *testing.T, c trouble) {
		h := newHost(t, sim)
		h.env = append(h.env, "CHSIM_FAIL="+c.fail)
		h.boot("web")
		h.env = append(h.env, "CHSIM_FAIL=")
		h.boot("other")
		save, _, stderr := h.command([]string{"snapshot", "create", "web", "never", "--capture", c.mode}, "COCOON_VMM_TIMEOUT=2s")
		_ = save.Run()
		help := "hint: cocoon vm stop web, then cocoon vm start web"
		if code := save.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), help) {
			t.Errorf("exit code %d, want 4: %s", code, stderr)
		}
		h.bare()
		// The patience of half an hour: whatever waited for web would still be there.
		h.env = append(h.env, "COCOON_VMM_TIMEOUT=30m")
		for _, args := range [][]string{
			{"vm", "inspect", "other"}, {"snapshot", "create", "other", "fine"}, {"gc"}, {"vm", "suspend", "other"}, {"vm", "start", "other"},
		} {
			h.promptly(args...)
		}
		if list := h.promptly("vm", "list"); !strings.Contains(list, c.state) {
			t.Errorf("vm list does not say %q: %s", c.state, list)
		}
		if list := h.promptly("vm", "list", "--filter", "state=running", "-q"); strings.Count(list, "\n") != 1 {
			t.Errorf("the filter finds %q, want two", list)
		}
		resume, _, stderr := h.command([]string{"vm", "resume", "web"}, "COCOON_VMM_TIMEOUT=1s")
		_ = resume.Run()
		if code := resume.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), help) {
			t.Errorf("resume: exit code %d, want 4: %s", code, stderr)
		}
		h.promptly("vm", "stop", "web")
		h.promptly("vm", "start", "web")
		h.counts("web")
		h.state("web", "running")
		h.clean("fine")
	})
}

// promptly runs a command that has to succeed without waiting for a VMM.
func (h *host) promptly(args ...string) string {
	h.t.Helper()
	c, out, stderr := h.command(args)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	late := time.AfterFunc(2*time.Minute, func() { c.Process.Kill() }) // of the half hour that it may wait
	defer late.Stop()
	if err := c.Wait(); err != nil {
		h.t.Fatalf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSpace(out.String())
}

// TestAVMMThatDoesNotAnswerIsSeen, for as long as it does not.
func TestAVMMThatDoesNotAnswerIsSeen(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	if err := syscall.Kill(v.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.until("the VMM stands still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.PID))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	if v := h.vm("web"); v.State != "running" || v.Trouble != "not answering" {
		t.Errorf("state %q, trouble %q", v.State, v.Trouble)
	}
	for _, args := range [][]string{{"snapshot", "create", "web", "never"}, {"vm", "suspend", "web"}, {"vm", "pause", "web"}, {"vm", "resume", "web"}} {
		c, _, stderr := h.command(args, "COCOON_VMM_TIMEOUT=200ms")
		_ = c.Run()
		if code := c.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), "within 200ms (see vmmTimeout)") {
			t.Errorf("%v: exit code %d, want 4: %s", args, code, stderr)
		}
	}
	if err := syscall.Kill(v.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.counts("web")
	if v := h.vm("web"); v.State != "running" || v.Trouble != "" {
		t.Errorf("state %q, trouble %q", v.State, v.Trouble)
	}
	h.must("snapshot", "create", "web", "fine")
	h.clean("fine")
}

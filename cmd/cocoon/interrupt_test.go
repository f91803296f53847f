package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// stopped starts a command that stands still at a step, and waits until it does.
func (h *host) stopped(step string, args ...string) (*exec.Cmd, fmt.Stringer) {
	h.t.Helper()
	c, _, stderr := h.command(args, durable.StopAt+"="+step)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		if err == nil && strings.Contains(string(stat), ") T ") {
			return c, stderr
		}
		if err != nil || time.Now().After(deadline) {
			c.Process.Kill()
			h.t.Fatalf("cocoon %s never stood still at %s: %v", strings.Join(args, " "), step, err)
		}
	}
}

// TestInterruptedCapture sends SIGINT and SIGTERM into the pause.
func TestInterruptedCapture(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for _, step := range append(slices.Clone(pauseSteps), "store.commit.staged") {
			h.interrupted(v, sig, step, "snapshot", "create", "web", "never", "--capture", "file")
		}
	}
	h.counts("web")
}

// interrupted sends a signal to a command that stands still at a step: it ends
// with code 130, without the snapshot "never", and the guest runs.
func (h *host) interrupted(v vmRow, sig syscall.Signal, step string, args ...string) {
	h.t.Helper()
	c, stderr := h.stopped(step, args...)
	if err := errors.Join(c.Process.Signal(sig), c.Process.Signal(syscall.SIGCONT)); err != nil {
		h.t.Fatal(err)
	}
	err := c.Wait()
	h.runsWithin(v, 100*time.Millisecond)
	code := c.ProcessState.ExitCode()
	published := slices.Contains(strings.Fields(h.must("snapshot", "list", "--format", "{{.Name}}")), "never")
	if code == 0 && published && step == "store.commit.staged" {
		h.must("snapshot", "rm", "never") // the publish came before the signal: all, not half
		return
	}
	if published {
		h.t.Errorf("%s at %s: exit code %d, but the snapshot is there", sig, step, code)
	}
	if code != 130 {
		h.t.Errorf("%s at %s: exit code %d (%v), want 130: %s", sig, step, code, err, stderr)
	}
	h.bare()
	h.clean()
}

// TestNextCommandResumes kills a capture and its guard together: nothing is
// left that could resume the guest but the next command.
func TestNextCommandResumes(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	c, _ := h.stopped("capture.saved", "snapshot", "create", "web", "never", "--capture", "file")
	guards := processes(func(p process) bool { return p.parent == c.Process.Pid })
	if len(guards) != 1 {
		t.Fatalf("the capture has children %v, want one guard", guards)
	}
	if err := errors.Join(syscall.Kill(guards[0].pid, syscall.SIGKILL), c.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	list, _, stderr := h.command([]string{"vm", "list"})
	if err := list.Run(); err != nil {
		t.Fatal(err)
	}
	h.runsWithin(v, 100*time.Millisecond)
	if !strings.Contains(stderr.String(), "goes on") {
		t.Errorf("the rescue was not told: %q", stderr)
	}
	h.clean()
	h.counts("web")
}

// TestVMMThatFails drives captures and restores against a VMM that fails, hangs
// or dies: the command ends in bounded time with its code, nothing is left.
func TestVMMThatFails(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	for _, c := range []struct {
		fail string
		code int
		runs bool // the guest runs afterwards
	}{
		{"vm.pause=fail", 1, true},
		{"vm.pause=late-fail", 1, true},
		{"vm.pause=die", 4, false},
		{"vm.snapshot=fail", 1, true},
		{"vm.snapshot=enospc", 1, true},
		{"vm.snapshot=die", 4, false},
		{"vm.snapshot=late-die", 4, false},
		{"vm.pause=hang", 4, false},
		{"vm.snapshot=hang", 4, false},
		{"vm.info=hang#3", 4, false},
	} {
		t.Run(c.fail, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, sim, "CHSIM_FAIL="+c.fail, "COCOON_VMM_TIMEOUT=300ms")
			v := h.boot("web")
			cmd, _, stderr := h.command([]string{"snapshot", "create", "web", "never", "--capture", "file"})
			start := time.Now()
			_ = cmd.Run()
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("it took %s", took)
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, stderr)
			}
			if c.runs {
				h.runsWithin(v, 100*time.Millisecond)
			}
			if !strings.HasPrefix(stderr.String(), "cocoon: ") || strings.Count(stderr.String(), "\n") > 2 {
				t.Errorf("stderr is not one line and a hint: %q", stderr)
			}
			h.clean()
		})
	}
	for _, c := range []struct{ mode, fail string }{
		{"map", "vm.restore=fail"},
		{"map", "vm.restore=die"},
		{"map", "vm.restore=late-die"},
		{"map", "vm.restore=hang"},
		{"map", "vm.resume=fail"},
		{"map", "vm.resume=die"},
		{"map", "vmm.ping=hang"},
		{"stream", "vm.receive-migration=fail"},
		{"stream", "vm.receive-migration=hang"},
		{"stream", "vm.receive-migration=die"},
		{"stream", "vm.receive-migration=late-fail"},
		{"stream", "vm.receive-migration=late-die"},
		{"stream", "receive.start=fail"},
		{"stream", "receive.start=hang"},
		{"stream", "receive.config=fail"},
		{"stream", "receive.config=hang"},
		{"stream", "receive.config=late-die"},
		{"stream", "receive.lane=fail#3"},
		{"stream", "receive.lane=hang#3"},
		{"stream", "receive.lane=die#3"},
		{"stream", "receive.lane=late-fail"},
		{"stream", "receive.state=fail"},
		{"stream", "receive.state=hang"},
		{"stream", "receive.state=late-hang"},
		{"stream", "receive.state=late-die"},
		{"stream", "receive.complete=fail"},
		{"stream", "receive.complete=late-hang"},
		{"stream", "receive.complete=late-die"},
		{"stream", "vm.resume=fail"},
	} {
		t.Run("restore by "+c.mode+" "+c.fail, func(t *testing.T) {
			t.Parallel()
			failedRestore(newHost(t, sim), c.mode, c.fail)
		})
	}
}

// failedRestore holds a restore that fails to all or none.
func failedRestore(h *host, mode, fail string) {
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.env = append(h.env, "CHSIM_FAIL="+fail, "COCOON_VMM_TIMEOUT=300ms")
	cmd, _, stderr := h.command([]string{"vm", "create", "c", "--from-snapshot", "base", "--count", "2", "--restore-mode", mode})
	start := time.Now()
	if err := cmd.Run(); err == nil {
		h.t.Fatal("the restore succeeded")
	}
	if took := time.Since(start); took > 30*time.Second {
		h.t.Errorf("it took %s", took)
	}
	if !strings.HasPrefix(stderr.String(), "cocoon: ") {
		h.t.Errorf("stderr: %q", stderr)
	}
	if got := h.must("vm", "list", "--format", "{{.Name}}"); got != "web" {
		h.t.Errorf("VMs after the failure: %q", got)
	}
	for _, folder := range []string{"ingest", "leases", "journals", "trash"} {
		if left := h.left(folder); len(left) > 0 {
			h.t.Errorf("left %s/%v", folder, left)
		}
	}
	h.clean("base")
}

// TestInterruptedStream sends SIGINT while pages are pushed into a VMM that
// would wait for the rest for ever.
func TestInterruptedStream(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, step := range []string{"restore.streaming", "restore.streamed"} {
		c, stderr := h.stopped(step, "vm", "create", "c", "--from-snapshot", "base", "--restore-mode", "stream")
		if err := errors.Join(c.Process.Signal(syscall.SIGINT), c.Process.Signal(syscall.SIGCONT)); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); c.ProcessState.ExitCode() != 130 {
			t.Errorf("at %s: exit code %d (%v), want 130: %s", step, c.ProcessState.ExitCode(), err, stderr)
		}
		if got := h.must("vm", "list", "--format", "{{.Name}}"); got != "web" {
			t.Errorf("VMs after the interrupt: %q", got)
		}
		for _, folder := range []string{"leases", "journals", "trash"} {
			if left := h.left(folder); len(left) > 0 {
				t.Errorf("at %s: left %s/%v", step, folder, left)
			}
		}
		h.clean("base")
	}
}

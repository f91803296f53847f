package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// phases of a migration as the simulator's failpoints name them, in order.
var phases = []string{"Start", "Config", "Memory#1", "Memory#2", "State", "Complete"}

// TestLiveCaptureOfAVMMThatFails: in each phase the VMM aborts, dies, or stands
// still. The command ends in bounded time with its code, nothing is left, and
// where the VMM lives the guest runs.
func TestLiveCaptureOfAVMMThatFails(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	for _, phase := range phases {
		for _, action := range []string{"fail", "die", "stall"} {
			name, nth, counted := strings.Cut(phase, "#")
			rule := "migration." + name + "=" + action
			if counted {
				rule += "#" + nth
			}
			t.Run(rule, func(t *testing.T) {
				t.Parallel()
				h := newHost(t, sim, "CHSIM_FAIL="+rule, "COCOON_VMM_TIMEOUT=500ms")
				v := h.boot("web")
				cmd, _, stderr := h.command([]string{"snapshot", "create", "web", "never", "--capture", "live"})
				start := time.Now()
				_ = cmd.Run()
				if took := time.Since(start); took > 15*time.Second {
					t.Errorf("it took %s", took)
				}
				if code := cmd.ProcessState.ExitCode(); code != 4 {
					t.Errorf("exit code %d, want 4: %s", code, stderr)
				}
				if !strings.HasPrefix(stderr.String(), "cocoon: ") || strings.Count(stderr.String(), "\n") > 2 {
					t.Errorf("stderr is not one line and a hint: %q", stderr)
				}
				h.bare()
				h.clean()
				if action != "die" {
					h.runsWithin(v, 100*time.Millisecond)
					h.counts("web")
				}
			})
		}
	}
}

// TestLiveCaptureInterrupted: SIGINT in each phase.
func TestLiveCaptureInterrupted(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	for _, step := range streamSteps {
		h.interrupted(v, syscall.SIGINT, step, "snapshot", "create", "web", "never", "--capture", "live")
	}
	h.counts("web")
}

// TestLiveCaptureVMMKilled: the VMM is killed in each phase, the real one too.
func TestLiveCaptureVMMKilled(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	for _, step := range streamSteps {
		c, stderr := h.stopped(step, "snapshot", "create", "web", "never", "--capture", "live")
		if err := errors.Join(syscall.Kill(h.vm("web").PID, syscall.SIGKILL), c.Process.Signal(syscall.SIGCONT)); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		if code := c.ProcessState.ExitCode(); code != 4 {
			t.Errorf("killed at %s: exit code %d, want 4: %s", step, code, stderr)
		}
		h.bare()
		h.clean()
		h.must("vm", "start", "web")
		h.counts("web")
	}
}

// TestLiveCaptureFullDisk: the store's file system becomes full in each phase.
func TestLiveCaptureFullDisk(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	if err := os.Mkdir(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.root, "tmpfs", 0, "size=400m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	v := h.boot("web")
	ballast := filepath.Join(h.root, "ballast")
	for _, step := range append(slices.Clone(streamSteps), "store.commit.staged") {
		c, stderr := h.stopped(step, "snapshot", "create", "web", "never", "--capture", "live", "--parent", "none")
		fillUp(t, ballast)
		if err := c.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if code := c.ProcessState.ExitCode(); code != 8 && !(code == 0 && step == "store.commit.staged") {
			t.Errorf("full at %s: exit code %d, want 8: %s", step, code, stderr)
		}
		h.runsWithin(v, 100*time.Millisecond)
		h.bare()
		h.clean()
	}
	h.counts("web")
}

// fillUp takes every byte that is free.
func fillUp(t *testing.T, path string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*int64(fs.Bsize)); err != nil {
		t.Fatal(err)
	}
}

// captureOf inspects how a snapshot was taken.
func (h *host) captureOf(name string) (c struct {
	Mode    string
	PauseMs float64
},
) {
	h.t.Helper()
	var rows []struct{ Capture json.RawMessage }
	if err := json.Unmarshal([]byte(h.must("snapshot", "inspect", name)), &rows); err != nil || len(rows) != 1 {
		h.t.Fatalf("inspect %s: %v", name, err)
	}
	if err := json.Unmarshal(rows[0].Capture, &c); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// TestCaptureModes: auto is live where the VMM can, else file, and says so; live
// that cannot be had is refused before anything happens.
func TestCaptureModes(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "auto")
	h.must("snapshot", "create", "web", "file", "--capture", "file")
	h.must("vm", "pause", "web")
	h.must("snapshot", "create", "web", "paused", "--capture", "live")
	if got := h.vm("web").State; got != "paused" {
		t.Errorf("a paused VM is %s after a live capture", got)
	}
	for name, mode := range map[string]string{"auto": "live", "file": "file", "paused": "live"} {
		c := h.captureOf(name)
		if c.Mode != mode || (c.PauseMs == 0) != (name == "paused") {
			t.Errorf("%s: %+v, want mode %s", name, c, mode)
		}
		h.must("vm", "create", name, "--from-snapshot", name)
		h.counts(name)
		// A snapshot of what was restored, live again.
		h.must("snapshot", "create", name, name+"-2", "--capture", "live")
		h.must("vm", "rm", "-f", name)
		h.must("vm", "create", name+"-again", "--from-snapshot", name+"-2", "--restore-mode", "copy")
		h.counts(name + "-again")
		h.must("vm", "rm", "-f", name+"-again")
	}
	h.clean("auto", "file", "paused")
}

func TestAutoFallsBackAndSaysSo(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	for env, why := range map[string]string{
		"CHSIM_VERSION=52.0.0":              "Cloud Hypervisor 52.0.0 cannot stream",
		"CHSIM_FAIL=vm.send-migration=fail": "injected failure",
	} {
		t.Run(env, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, sim, env)
			h.boot("web")
			c, _, stderr := h.command([]string{"snapshot", "create", "web", "auto"})
			if err := c.Run(); err != nil {
				t.Fatalf("%v: %s", err, stderr)
			}
			if !strings.Contains(stderr.String(), "file mode") || !strings.Contains(stderr.String(), why) {
				t.Errorf("the fall-back was not told: %q", stderr)
			}
			if c := h.captureOf("auto"); c.Mode != "file" {
				t.Errorf("mode %s", c.Mode)
			}
			c, _, stderr = h.command([]string{"snapshot", "create", "web", "live", "--capture", "live"})
			_ = c.Run()
			if code := c.ProcessState.ExitCode(); code == 0 || !strings.Contains(stderr.String(), why) {
				t.Errorf("--capture live: exit code %d: %s", code, stderr)
			}
			h.counts("web")
			h.bare()
			h.clean("auto")
		})
	}
}

// TestDisksStayLocked: a live capture takes the VMM's own disk locks away. Ours
// stay for as long as the VMM lives, and every verb that would open the disk
// respects them.
func TestDisksStayLocked(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	disk := filepath.Join(h.root, "vms", v.ID, "disk-0.raw")
	h.must("snapshot", "create", "web", "base", "--capture", "live")
	if used, err := filelock.Used(disk); err != nil || !used {
		t.Errorf("after a live capture the disk is in use: %v, %v", used, err)
	}
	for _, args := range [][]string{
		{"vm", "create", "thief", "--kernel", "guest.elf", "--disk", disk},
		{"image", "import", disk, "--name", "thief"},
	} {
		c, _, stderr := h.command(args)
		_ = c.Run()
		if code := c.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), "in use") {
			t.Errorf("%v: exit code %d, want 4: %s", args, code, stderr)
		}
	}
	h.must("vm", "stop", "web", "--timeout", "1s")
	lock, err := filelock.ExclusiveExisting(t.Context(), disk) // a VMM that nobody knows of
	if err != nil {
		t.Fatalf("the lock outlives the VMM: %v", err)
	}
	c, _, stderr := h.command([]string{"vm", "start", "web"})
	_ = c.Run()
	if code := c.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), "runs elsewhere") {
		t.Errorf("start on a locked disk: exit code %d, want 4: %s", code, stderr)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	h.must("vm", "start", "web")
	h.counts("web")
	h.must("vm", "create", "again", "--from-snapshot", "base")
	if used, err := filelock.Used(filepath.Join(h.root, "vms", h.vm("again").ID, "disk-0.raw")); err != nil || !used {
		t.Errorf("the disk of a restored VM is in use: %v, %v", used, err)
	}
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// proc reads a file of a process.
func (h *host) proc(pid int, file string) string {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// readFile is "" for a file that is gone.
func readFile(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// status is a field of /proc/PID/status.
func (h *host) status(pid int, field string) string {
	h.t.Helper()
	for line := range strings.Lines(h.proc(pid, "status")) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	h.t.Fatalf("process %d has no %s", pid, field)
	return ""
}

// keeperOf is the parent of a VMM.
func (h *host) keeperOf(v vmRow) int {
	h.t.Helper()
	pid, err := strconv.Atoi(h.status(v.PID, "PPid"))
	if err != nil {
		h.t.Fatal(err)
	}
	if !strings.Contains(h.proc(pid, "cmdline"), "__keeper\x00"+filepath.Join(h.run, v.ID)) {
		h.t.Fatalf("the parent of VMM %d is %q", v.PID, h.proc(pid, "cmdline"))
	}
	return pid
}

// opened is where the descriptors of a process lead.
func (h *host) opened(pid int) map[string]string {
	h.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			out[e.Name()] = to
		}
	}
	return out
}

// withSignalsBlocked starts a command whose thread blocks SIGUSR2, as a child of a
// careless parent would.
func withSignalsBlocked(c *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.Sigset_t
	blocked := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR2 - 1)}}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &before); err != nil {
		return err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	return c.Run()
}

// TestAVMMInheritsNothing of whoever gave the command: a lock of a cron job would
// be held as long as the VM lives, its tokens would be read in /proc, and guest
// RAM would be in its core dumps.
func TestAVMMInheritsNothing(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VMM_OOM_SCORE_ADJ=250")
	lock := filepath.Join(h.work, "cron.lock")
	c, _, stderr := h.command(nil, "TOKEN=secret")
	c.Path, c.Args = "/bin/sh", []string{"sh", "-c", `exec 9>cron.lock; flock 9; umask 0; ulimit -c unlimited 2>/dev/null
exec cocoon vm create web --kernel guest.elf --disk disk.raw --memory 64M --start`}
	if err := withSignalsBlocked(c); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	h.counts("web")
	v := h.vm("web")
	k := h.keeperOf(v)
	if l, err := filelock.TryExclusive(lock); err != nil {
		t.Errorf("the lock of whoever gave the command: %v", err)
	} else if err := l.Unlock(); err != nil {
		t.Error(err)
	}
	for name, pid := range map[string]int{"VMM": v.PID, "keeper": k} {
		if env := h.proc(pid, "environ"); env != "PATH="+os.Getenv("PATH")+"\x00MALLOC_ARENA_MAX=1\x00" {
			t.Errorf("environment of the %s: %q", name, env)
		}
		if limits := h.proc(pid, "limits"); !strings.Contains(limits, "Max core file size        0                    0") {
			t.Errorf("the %s may dump core: %s", name, limits)
		}
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
			t.Errorf("the %s is in folder %s, %v", name, cwd, err)
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != k {
			t.Errorf("the %s is in session %d, %v", name, sid, err)
		}
		if mask := h.status(pid, "Umask"); mask != "0077" {
			t.Errorf("umask of the %s: %s", name, mask)
		}
		for fd, to := range h.opened(pid) {
			if to == lock || name == "keeper" && strings.Contains(to, "disk-") {
				t.Errorf("descriptor %s of the %s: %s", fd, name, to)
			}
		}
	}
	if h.blocks(v.PID, unix.SIGUSR2) {
		t.Error("the VMM blocks a signal that whoever gave the command blocked")
	}
	if score := strings.TrimSpace(h.proc(v.PID, "oom_score_adj")); score != "250" {
		t.Errorf("oom_score_adj of the VMM: %s", score)
	}
}

// blocks tells whether every thread of a process blocks a signal.
func (h *host) blocks(pid int, sig unix.Signal) bool {
	h.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		h.t.Fatalf("process %d has %d threads, %v", pid, len(threads), err)
	}
	for _, path := range threads {
		_, rest, _ := strings.Cut(readFile(path), "SigBlk:")
		word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		mask, err := strconv.ParseUint(word, 16, 64)
		if err == nil && mask&(1<<(sig-1)) == 0 {
			return false
		}
	}
	return true
}

// TestEndsAreTold: by the state, the reason, and what the VMM said last.
func TestEndsAreTold(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	for _, c := range []struct {
		name          string
		end           func(v vmRow)
		state, reason string
		shown         string
	}{
		{"killed", func(v vmRow) { h.signal(v.PID, unix.SIGKILL) }, "error", vm.Killed, "error (SIGKILL)"},
		{"crashed", func(v vmRow) { h.signal(v.PID, unix.SIGABRT) }, "error", vm.Failed, "error (exit code 2)"},
		{"power off", func(v vmRow) { h.api("web", "vm.power-button", "") }, "stopped", vm.PoweredOff, "stopped (powered off)"},
		{"ended in order", func(v vmRow) { h.signal(v.PID, unix.SIGTERM) }, "stopped", vm.PoweredOff, "stopped (powered off)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := h.boot("web")
			c.end(v)
			h.ended("web")
			now := h.vm("web")
			if now.State != c.state || now.PID != 0 || now.Exit == nil || now.Exit.Reason != c.reason || now.Exit.At.IsZero() {
				t.Errorf("state %s, process %d, exit %+v", now.State, now.PID, now.Exit)
			}
			if c.state == "error" && (now.LastError == "" || now.Exit.LastLog == "" && c.name == "crashed") {
				t.Errorf("error %q, the VMM's last line %q", now.LastError, now.Exit.LastLog)
			}
			if list := h.must("vm", "list"); !strings.Contains(list, c.shown) {
				t.Errorf("vm list does not say %q: %s", c.shown, list)
			}
			if names := h.must("vm", "list", "--filter", "state="+c.state, "--format", "{{.Name}}"); names != "web" {
				t.Errorf("with state %s: %q", c.state, names)
			}
			h.must("vm", "start", "web")
			if now := h.vm("web"); now.Exit != nil || now.LastError != "" {
				t.Errorf("it runs again: %+v, %q", now.Exit, now.LastError)
			}
			h.must("vm", "rm", "-f", "web")
		})
	}
}

// TestAPanickedGuestIsNotPlainRunning, as long as it has not booted again.
func TestAPanickedGuestIsNotPlainRunning(t *testing.T) {
	t.Parallel()
	for nmi, from := range map[string]string{"panic": "console", "pvpanic": "pvpanic"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, chsnaptest.Build(t), "CHSIM_NMI="+nmi)
			v := h.boot("web")
			if v.Panic != nil {
				t.Errorf("before: %+v", v.Panic)
			}
			h.api("web", "vm.nmi", "")
			h.until("the panic is seen", func() bool { return h.vm("web").Panic != nil })
			now := h.vm("web")
			if now.State != "running" || now.Panic.From != from || from == "console" && now.Panic.Line != "Kernel panic - not syncing: NMI: Not continuing" {
				t.Errorf("state %s, panic %+v", now.State, now.Panic)
			}
			if list := h.must("vm", "list"); !strings.Contains(list, "running (panicked)") {
				t.Errorf("vm list: %s", list)
			}
			h.api("web", "vm.reboot", "")
			h.until("the reboot is seen", func() bool { return h.vm("web").Panic == nil })
		})
	}
}

// TestAVMMGoesOnWithoutItsKeeper, and the next command gives it another one, which
// sees its end too where the kernel tells it.
func TestAVMMGoesOnWithoutItsKeeper(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	first := h.keeperOf(v)
	h.signal(first, unix.SIGKILL)
	h.gone(first)
	said := h.says("vm", "list")
	if !strings.Contains(said, "a VM without a keeper has one again") || !strings.Contains(said, v.ID) {
		t.Errorf("the next command says %q", said)
	}
	if said := h.says("vm", "list"); said != "" {
		t.Errorf("the one after it says %q", said)
	}
	if now := h.vm("web"); now.State != "running" || now.PID != v.PID {
		t.Errorf("%s, process %d, was %d", now.State, now.PID, v.PID)
	}
	h.counts("web")
	h.signal(v.PID, unix.SIGKILL)
	h.ended("web")
	now := h.vm("web")
	if now.Exit == nil || now.Exit.Reason != vm.Killed && now.Exit.Reason != vm.Unseen {
		t.Errorf("state %s, exit %+v", now.State, now.Exit)
	}
	h.until("the keeper follows", func() bool { return len(h.keepers()) == 0 })
}

// TestAStoppedKeeperKeepsNobodyWaiting: not the guest, and not the command that
// removes it.
func TestAStoppedKeeperKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	v := h.boot("web")
	h.signal(h.keeperOf(v), unix.SIGSTOP)
	h.counts("web")
	h.must("snapshot", "create", "web", "one")
	h.counts("web")
	h.must("vm", "rm", "-f", "web")
	if left := h.keepers(); len(left) > 0 {
		t.Errorf("keepers %v are left", left)
	}
	if _, err := os.Stat(filepath.Join(h.run, v.ID)); !os.IsNotExist(err) {
		t.Errorf("its run folder: %v", err)
	}
}

// keepers are all that keep a VM of this host.
func (h *host) keepers() (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, dir := range all {
		b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if pid, perr := strconv.Atoi(filepath.Base(dir)); err == nil && perr == nil && strings.Contains(string(b), "__keeper\x00"+h.run+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// keeps: a process is the keeper of a VM, or has ended.
func (h *host) keeps(pid int, id string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(b) == 0 || strings.Contains(string(b), "__keeper\x00"+filepath.Join(h.run, id))
}

func (h *host) signal(pid int, sig unix.Signal) {
	h.t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		h.t.Fatal(err)
	}
}

// ended waits until a VM has no VMM.
func (h *host) ended(name string) {
	h.t.Helper()
	h.until("its VMM ends", func() bool { return h.vm(name).PID == 0 })
}

// gone waits until a process has ended, with all threads: until then it holds locks.
func (h *host) gone(pid int) {
	h.t.Helper()
	h.until(fmt.Sprintf("process %d ends", pid), func() bool {
		_, err := keeper.StartTime(pid)
		return err != nil
	})
}

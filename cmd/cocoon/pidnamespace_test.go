package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// pidNamespaceOf is a PID namespace with a /proc of its own, as a container has,
// until the test ends. The answer is its first process.
func pidNamespaceOf(t *testing.T) (first string) {
	t.Helper()
	for _, tool := range []string{"unshare", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (util-linux)", tool)
		}
	}
	c := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.Process.Pid), "task", strconv.Itoa(c.Process.Pid), "children"))
		child := strings.TrimSpace(string(b))
		if err != nil || child == "" {
			continue
		}
		if name, _ := os.ReadFile(filepath.Join("/proc", child, "comm")); strings.TrimSpace(string(name)) == "sleep" {
			return child
		}
	}
	t.Skip("this host lets nobody make a PID namespace")
	return ""
}

// inside is a command that runs there.
func (h *host) inside(first string, args ...string) (code int, out, stderr string) {
	h.t.Helper()
	self, err := exec.LookPath("cocoon")
	if err != nil {
		h.t.Fatal(err)
	}
	c := exec.Command("nsenter", append([]string{"--target", first, "--pid", "--mount", "--wdns=" + h.work, self}, args...)...)
	var o, e bytes.Buffer
	c.Env, c.Dir, c.Stdout, c.Stderr = h.env, h.work, &o, &e
	_ = c.Run() // the exit code is looked at
	return c.ProcessState.ExitCode(), strings.TrimSpace(o.String()), e.String()
}

// worksOnIt are verbs that would start, end, save or remove the VM web.
var worksOnIt = [][]string{
	{"vm", "start", "web"},
	{"vm", "stop", "web"},
	{"vm", "pause", "web"},
	{"vm", "resume", "web"},
	{"vm", "suspend", "web"},
	{"vm", "restore", "web", "base"},
	{"vm", "rm", "web"},
	{"vm", "rm", "--force", "web"},
	{"snapshot", "create", "web", "x"},
}

// TestAVMThatRunsElsewhere is neither started twice nor removed under its VMM, on
// whichever side of a PID namespace it was started; with disks, and without any.
func TestAVMThatRunsElsewhere(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	for name, c := range map[string]struct {
		disk          string
		startedInside bool
	}{
		"started outside": {"disk.raw", false},
		"started inside":  {"disk.raw", true},
		"without a disk":  {"", false},
		"the same inside": {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm, "COCOON_VMM_TIMEOUT=1m")
			first := pidNamespaceOf(t)
			outside := func(args ...string) (int, string, string) {
				cmd, out, stderr := h.command(args)
				_ = cmd.Run() // the exit code is looked at
				return cmd.ProcessState.ExitCode(), strings.TrimSpace(out.String()), stderr.String()
			}
			inside := func(args ...string) (int, string, string) { return h.inside(first, args...) }
			there, here := outside, inside
			if c.startedInside {
				there, here = inside, outside
			}
			create := []string{"vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start"}
			if c.disk != "" {
				create = append(create, "--disk", c.disk)
			}
			for _, args := range [][]string{create, {"snapshot", "create", "web", "base"}} {
				if code, _, stderr := there(args...); code != 0 {
					t.Fatalf("%s: exit code %d: %s", args, code, stderr)
				}
			}
			elsewhere := func(when string) {
				t.Helper()
				if _, state, stderr := here("vm", "list", "--format", "{{.State}}"); state != "elsewhere" {
					t.Errorf("%s: seen from here it is %q: %s", when, state, stderr)
				}
				if _, state, stderr := there("vm", "list", "--format", "{{.State}}"); state != "running" {
					t.Errorf("%s: seen from there it is %q: %s", when, state, stderr)
				}
			}
			elsewhere("at first")
			for _, args := range worksOnIt {
				code, _, stderr := here(args...)
				if code != 4 || !strings.Contains(stderr, "PID namespace") || !strings.Contains(stderr, "hint: use cocoon where the VM was started") {
					t.Errorf("%s: exit code %d: %s", args, code, stderr)
				}
			}
			elsewhere("after all verbs")
			if code, _, stderr := here("gc"); code != 0 {
				t.Errorf("gc: exit code %d: %s", code, stderr)
			}
			elsewhere("after gc")
			was := h.env
			h.env = append(slices.Clone(was), "COCOON_RUN_DIR="+filepath.Join(h.work, "run")) // a run folder of its own
			if code, _, stderr := here("vm", "rm", "--force", "web"); code != 4 || !strings.Contains(stderr, "not to be seen from here") {
				t.Errorf("rm with another run folder: exit code %d: %s", code, stderr)
			}
			h.env = was
			h.counts("web")
			if code, _, stderr := there("vm", "rm", "--force", "web"); code != 0 {
				t.Errorf("rm where it runs: exit code %d: %s", code, stderr)
			}
			if _, left, _ := here("vm", "list", "-q"); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// TestAWrongProcIsRefused: where /proc tells of other processes than those that
// can be signalled, nothing can be said of a VMM.
func TestAWrongProcIsRefused(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	self, err := exec.LookPath("cocoon")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vm", "rm", "--force", "web"}, {"vm", "stop", "web"}, {"vm", "start", "web"}} {
		c := exec.Command(self, args...)
		c.Env, c.Dir = h.env, h.work
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		out, _ := c.CombinedOutput()
		if code := c.ProcessState.ExitCode(); code != 6 || !strings.Contains(string(out), "mount -t proc") {
			t.Errorf("%s: exit code %d: %s", args, code, out)
		}
	}
	h.counts("web")
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestASignalEndsEveryLongVerb: each of what ends a command ends each verb that
// takes its time, at a step in its middle, with 130; the guest runs, nothing is
// left, and it says so.
func TestASignalEndsEveryLongVerb(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.must("snapshot", "create", "web", "more")
	h.must("snapshot", "export", "base", "-o", "layout")
	for _, c := range []struct {
		step  string
		args  []string
		quick bool // it only looks, and may be done before it sees the signal
	}{
		{"migration.memory", []string{"snapshot", "create", "web", "never", "--capture", "live"}, false},
		{"migration.complete", []string{"snapshot", "create", "web", "never", "--capture", "live"}, false},
		{"capture.saved", []string{"snapshot", "create", "web", "never", "--capture", "file"}, false},
		{"vm.suspend.paused", []string{"vm", "suspend", "web"}, false},
		{"store.commit.published", []string{"vm", "suspend", "web"}, false},
		{"store.commit.published", []string{"vm", "restore", "web", "base", "--backup"}, false},
		{"become.launch", []string{"vm", "restore", "web", "base"}, false},
		{"restore.load", []string{"vm", "create", "never", "--from-snapshot", "base", "--count", "2"}, false},
		{"store.ingest.blob-written", []string{"snapshot", "import", "layout", "--name", "never"}, false},
		{"store.verify.snapshot", []string{"snapshot", "verify", "--all", "--read-data"}, true},
		{"gc.marked", []string{"gc"}, true},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			cmd, stderr := h.stopped(c.step+"#1", c.args...) // it may come there again before it sees the signal
			if err := errors.Join(cmd.Process.Signal(sig), cmd.Process.Signal(syscall.SIGCONT)); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if err == nil && c.quick {
				continue
			}
			what := fmt.Sprintf("%s at %s of %s", sig, c.step, strings.Join(c.args, " "))
			if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(stderr.String(), "interrupted by "+unix.SignalName(sig)) || strings.Contains(stderr.String(), "context canceled") {
				t.Errorf("%s: exit code %d (%v), want 130: %s", what, code, err, stderr)
			}
			t.Logf("%s: %s", what, strings.TrimSpace(stderr.String()))
			h.state("web", "running")
			h.counts("web")
			if c.args[0] == "gc" { // what it had moved to the trash the next one removes
				h.must("gc")
			}
			h.bare()
			if names := h.must("snapshot", "list", "--format", "{{.Name}}"); names != "more\nbase" && names != "base\nmore" {
				t.Errorf("%s: the snapshots are %q", what, names)
			}
			if ids := strings.Fields(h.must("snapshot", "list", "-q")); len(ids) != 2 { // one without a name too
				t.Errorf("%s: there are %d snapshots, want 2", what, len(ids))
			}
			if names := h.must("vm", "list", "--format", "{{.Name}}"); names != "web" {
				t.Errorf("%s: the VMs are %q", what, names)
			}
		}
	}
	h.clean("base", "more")
}

// TestASignalEndsATransfer that waits for a registry.
func TestASignalEndsATransfer(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	asked := make(chan struct{}, 64)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer silent.Close()
	there := strings.TrimPrefix(silent.URL, "http://") + "/vm:one"
	for _, args := range [][]string{{"snapshot", "push", "base", there, "--plain-http"}, {"snapshot", "pull", there, "never", "--plain-http"}} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			c, _, stderr := h.command(args)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := c.Wait()
			if code := c.ProcessState.ExitCode(); code != 130 || !strings.Contains(stderr.String(), "interrupted by "+unix.SignalName(sig)) {
				t.Errorf("%s of %v: %v (%v), want exit code 130: %s", sig, args, c.ProcessState, err, stderr)
			}
			h.bare()
		}
	}
	h.clean("base")
}

// TestAMomentOfStoppingHarmsNothing: ^Z and fg.
func TestAMomentOfStoppingHarmsNothing(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	for _, step := range []string{"capture.saved", "migration.memory", "migration.complete"} {
		mode := "live"
		if step == "capture.saved" {
			mode = "file"
		}
		c, stderr := h.stopped(step+"#1", "snapshot", "create", "web", step, "--capture", mode)
		if err := c.Process.Signal(syscall.SIGTSTP); err != nil {
			t.Fatal(err)
		}
		if err := c.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("at %s: %v: %s", step, err, stderr)
		}
	}
	h.counts("web")
	h.clean("capture.saved", "migration.memory", "migration.complete")
}

// TestASecondInterruptEndsAtOnce: what the first would have undone is left to the
// guard and to gc.
func TestASecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	h := newHost(t, sim)
	h.env = append(h.env, "CHSIM_FAIL=vm.resume=slow:1h#1", "COCOON_VMM_TIMEOUT=5s")
	v := h.boot("web")
	c, _ := h.stopped("capture.saved", "snapshot", "create", "web", "never", "--capture", "file")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGCONT} {
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	h.until("it waits for the VMM", func() bool {
		wait, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", c.Process.Pid))
		return bytes.Contains(wait, []byte(v.APISocket))
	})
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	for tick := time.NewTicker(20 * time.Millisecond); ; { // the first must have been seen
		select {
		case <-tick.C:
			_ = c.Process.Signal(syscall.SIGINT)
			continue
		case <-ended:
			tick.Stop()
		}
		break
	}
	if got := c.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGINT {
		t.Errorf("it ended by %v", c.ProcessState)
	}
}

// TestNohupIsRespected: a signal that was ignored when the command began.
func TestNohupIsRespected(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	c, _, stderr := h.command([]string{"snapshot", "create", "web", "one", "--capture", "file"}, durable.StopAt+"=capture.saved")
	path, err := exec.LookPath("cocoon")
	if err != nil {
		t.Fatal(err)
	}
	c.Path, c.Args = "/bin/sh", slices.Concat([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`, path}, c.Args[1:])
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.standsStill(c.Process.Pid)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGCONT} {
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
	h.clean("one")
}

// standsStill waits until a process is stopped.
func (h *host) standsStill(pid int) {
	h.t.Helper()
	h.until("it stands still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
}

// TestNobodyReads: a reader that goes away ends a command as a signal does,
// whichever stream it read. What prints data for others says nothing about it.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, c := range []struct {
		name   string
		args   []string
		env    string
		stderr bool // nobody reads stderr; else stdout
		code   int
		said   string
	}{
		{name: "export", args: []string{"snapshot", "export", "base", "-o", "-"}, code: 130},
		{name: "logs", args: []string{"vm", "logs", "web"}, code: 130},
		{name: "logs -f", args: []string{"vm", "logs", "-f", "web"}, code: 130},
		{name: "capture that says something", args: []string{"snapshot", "create", "web", "never", "--progress", "plain"}, stderr: true, code: 130},
		{name: "an id", args: []string{"snapshot", "create", "web", "done"}, code: 1, said: "the work is done, but its output is lost or incomplete"},
		{name: "a list", args: []string{"vm", "list"}, code: 1, said: "broken pipe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd, _, stderr := h.command(c.args)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			if c.stderr {
				cmd.Stderr = w
			} else {
				cmd.Stdout = w
			}
			_ = cmd.Run()
			w.Close()
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(stderr.String(), c.said) || c.said == "" && stderr.Len() > 0 {
				t.Errorf("%v, want exit code %d and %q: %s", cmd.ProcessState, c.code, c.said, stderr)
			}
			h.bare()
			h.counts("web")
		})
	}
	if names := strings.Fields(h.must("snapshot", "list", "--format", "{{.Name}}")); slices.Contains(names, "never") || !slices.Contains(names, "done") {
		t.Errorf("the snapshots are %v", names)
	}
	h.clean("base", "done")
}

// TestADemoLeavesNothing, however it ends: read for its first lines only,
// interrupted, or killed.
func TestADemoLeavesNothing(t *testing.T) {
	t.Parallel()
	sim := chsnaptest.Build(t)
	for name, c := range map[string]struct {
		end  func(c *exec.Cmd, r io.Closer) error
		code int
	}{
		"head":    {func(_ *exec.Cmd, r io.Closer) error { return r.Close() }, 130},
		"SIGTERM": {func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGTERM) }, 130},
		"SIGHUP":  {func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGHUP) }, 130},
		"SIGKILL": {func(c *exec.Cmd, _ io.Closer) error { return c.Process.Kill() }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, sim)
			tmp, err := os.MkdirTemp("", "d") // short: socket paths end at 108 bytes
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(tmp)
			cmd, _, stderr := h.command([]string{"demo"}, "TMPDIR="+tmp)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd.Stdout = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			var said []byte
			for b := make([]byte, 512); !bytes.Contains(said, []byte("the guest counts: RAM")); {
				n, err := r.Read(b)
				if err != nil {
					t.Fatalf("the demo ended: %v: %s", err, said)
				}
				said = append(said, b[:n]...)
			}
			if err := c.end(cmd, r); err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, r)
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("%v, want exit code %d: %s", cmd.ProcessState, c.code, stderr)
			}
			h.until("nothing is left", func() bool {
				left, err := filepath.Glob(filepath.Join(tmp, "*"))
				return err == nil && len(left) == 0
			})
			if pids := processesWith(t, tmp); len(pids) > 0 {
				t.Errorf("processes %v are left: %s", pids, stderr)
			}
		})
	}
}

// processesWith lists those that have a text in their command line.
func processesWith(t *testing.T, text string) (pids []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(text)) {
			pids = append(pids, path)
		}
	}
	return pids
}

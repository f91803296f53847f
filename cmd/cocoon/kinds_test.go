package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/chsnap/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/guest"
)

// TestEveryKindOfMemoryIsRestored: a guest that something else booted, with
// memory that must not be mapped, is saved and imported; auto streams it, map
// is refused before anything starts, copy works.
func TestEveryKindOfMemoryIsRestored(t *testing.T) {
	vmm, real := chsnaptest.VMM(t)
	for _, c := range []struct {
		name string
		args []string
		real bool // the simulator does not know the option
	}{
		{"shared", []string{"--memory", "size=64M,shared=on"}, false},
		{"zones", []string{"--memory", "size=0", "--memory-zone", "id=a,size=64M", "id=b,size=32M"}, true},
		{"virtio-mem", []string{"--memory", "size=64M,hotplug_method=virtio-mem,hotplug_size=128M"}, true},
		{"balloon", []string{"--memory", "size=64M", "--balloon", "size=0"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.real && !real {
				t.Skip("the simulator has no such memory")
			}
			h := newHost(t, vmm)
			h.must("snapshot", "import", h.foreign(vmm, c.args), "--name", "base")
			refused, _, stderr := h.command([]string{"vm", "create", "x", "--from-snapshot", "base", "--restore-mode", "map"})
			if err := refused.Run(); refused.ProcessState.ExitCode() != 6 {
				t.Errorf("map: exit code %d (%v), want 6: %s", refused.ProcessState.ExitCode(), err, stderr)
			}
			if plan := h.must("vm", "create", "x", "--from-snapshot", "base", "--dry-run"); !strings.Contains(plan, `"mode": "stream"`) {
				t.Errorf("plan %s, want stream", plan)
			}
			for _, mode := range []string{"auto", "copy"} {
				h.must("vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode)
				h.counts(mode)
			}
			h.clean("base")
		})
	}
}

// foreign boots a guest without cocoon, saves it into a folder and ends it.
func (h *host) foreign(vmm string, memory []string) string {
	h.t.Helper()
	dir := filepath.Join(h.work, "foreign")
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	kernel, serial, socket := filepath.Join(dir, "guest.elf"), filepath.Join(dir, "serial"), filepath.Join(h.run, "foreign.sock")
	if err := guest.WriteFile(kernel); err != nil {
		h.t.Fatal(err)
	}
	args := append([]string{
		"--api-socket", "path=" + socket, "--kernel", kernel, "--cmdline", "fill=16", "--cpus", "boot=1,nested=off",
		"--serial", "file=" + serial, "--console", "off",
	}, memory...)
	c := exec.Command(vmm, args...)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		log, _ := os.ReadFile(serial)
		if n, _, ok := guest.LastTick(log); ok && n > 3 {
			break
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the guest does not count: %s", log)
		}
	}
	client, ctx := chsnap.NewClient(socket, time.Minute), h.t.Context()
	snap := filepath.Join(dir, "snap")
	if err := errors.Join(client.Pause(ctx), os.Mkdir(snap, 0o700), client.Snapshot(ctx, snap, 128<<20), os.Rename(kernel, filepath.Join(snap, "guest.elf"))); err != nil {
		h.t.Fatal(err)
	}
	return snap
}

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// fakeSystemd stands on PATH for the program that places a process in a scope: it
// notes what it is asked for, leaves a trace in the environment as the real one
// does, and becomes what is to be started.
func (h *host) fakeSystemd(t *testing.T, script string) (env []string, asked func() string) {
	t.Helper()
	dir := t.TempDir()
	said := filepath.Join(dir, "asked")
	script = "#!/bin/sh\nprintf '%s\\n' \"$@\" >> " + said + "\n" + script
	if err := programtest.Write(filepath.Join(dir, "systemd-run"), []byte(script)); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, func() string {
		b := readFile(said)
		if err := os.Remove(said); err != nil {
			t.Errorf("nobody was asked: %v", err)
		}
		return b
	}
}

const becomes = `while [ "$1" != -- ]; do shift; done; shift
INVOCATION_ID=trace exec "$@"
`

// TestAVMMHasAScope of its own, with bounds, in each way in which one starts.
func TestAVMMHasAScope(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VM_SCOPE=on", "COCOON_VM_MEMORY_OVERHEAD=100M", "COCOON_VM_CPU_WEIGHT=50")
	env, asked := h.fakeSystemd(t, becomes)
	h.env = append(h.env, env...)
	starts := func(name string, args ...string) {
		t.Helper()
		h.must(args...)
		h.counts(name)
		v, said := h.vm(name), asked()
		for _, want := range []string{"--scope\n", "--slice=cocoon.slice\n", "--unit=cocoon-" + v.ID + "-", "--description=cocoon VM " + name + "\n", "--property=MemoryMax=171966464\n", "--property=CPUWeight=50\n"} {
			if !strings.Contains(said, want) {
				t.Errorf("%q: systemd is not told %q:\n%s", args, want, said)
			}
		}
		if env := h.proc(v.PID, "environ"); strings.Contains(env, "INVOCATION_ID") {
			t.Errorf("environment of the VMM: %q", env)
		}
	}
	starts("web", "vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
	h.must("snapshot", "create", "web", "saved")
	for _, mode := range []string{"map", "stream", "copy"} {
		starts(mode, "vm", "create", mode, "--from-snapshot", "saved", "--restore-mode", mode)
	}
	h.must("vm", "suspend", "web")
	starts("web", "vm", "start", "web")
	h.must("vm", "stop", "web", "--timeout", "1ms")
	starts("web", "vm", "start", "web")
	// What can be plugged in counts, of a VM that was made and of one that boots as
	// the machine that was saved.
	h.must("vm", "create", "grows", "--kernel", "guest.elf", "--memory", "size=64M,hotplug=128M", "--start")
	bound := "--property=MemoryMax=" + strconv.Itoa((64+128+100)<<20) + "\n"
	if said := asked(); !strings.Contains(said, bound) {
		t.Errorf("systemd is told %s", said)
	}
	h.counts("grows")
	h.must("snapshot", "create", "grows", "growing")
	h.must("vm", "create", "grown", "--from-snapshot", "growing", "--cold")
	h.must("vm", "start", "grown")
	if said := asked(); !strings.Contains(said, bound) {
		t.Errorf("at a cold boot systemd is told %s", said)
	}
	c, _, stderr := h.command([]string{"vm", "create", "free", "--from-snapshot", "saved"}, "COCOON_VM_MEMORY_OVERHEAD=none")
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	if said := asked(); strings.Contains(said, "MemoryMax") {
		t.Errorf("without a bound systemd is told: %s", said)
	}
}

// TestNoScopeIsNoVM where scopes are asked for; and settings are read as they are
// documented.
func TestNoScopeIsNoVM(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	create := []string{"vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start"}
	env, _ := h.fakeSystemd(t, "echo Failed to connect to bus >&2; exit 1\n")
	if said := h.fails(append(env, "COCOON_VM_SCOPE=on"), create...); !strings.Contains(said, "Failed to connect to bus") || !strings.Contains(said, "vmScope") {
		t.Errorf("%s", said)
	}
	for setting, want := range map[string]string{
		"COCOON_VM_SCOPE=yes": "auto, on or off", "COCOON_VM_MEMORY_OVERHEAD=1M": "at least 64MiB", "COCOON_VM_CPU_WEIGHT=0": "1 to 10000",
	} {
		if said := h.fails([]string{setting}, "vm", "list"); !strings.Contains(said, want) {
			t.Errorf("%s: %s", setting, said)
		}
	}
	h.must(create...)
}

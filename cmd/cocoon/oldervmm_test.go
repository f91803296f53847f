package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// aged makes a running VM what it would be had an older program started it, in a
// store that older programs made: nothing is marked, and its VMM holds locks on its
// disks alone.
func (h *host) aged(v vmRow) {
	h.t.Helper()
	entry := filepath.Join(h.run, v.ID)
	log, err := os.ReadFile(filepath.Join(entry, "vmm.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	var who vm.Identity
	b, err := os.ReadFile(filepath.Join(entry, "vmm.json"))
	if err = errors.Join(err, json.Unmarshal(b, &who)); err != nil {
		h.t.Fatal(err)
	}
	who.Store, who.PIDNamespace = "", 0
	if b, err = json.Marshal(who); err != nil {
		h.t.Fatal(err)
	}
	err = errors.Join(
		os.Remove(filepath.Join(entry, "owner")), os.Remove(filepath.Join(h.root, "identity")), os.Remove(filepath.Join(h.root, "vms", v.ID, "vmm.lock")),
		os.Remove(filepath.Join(entry, "vmm.log")), os.WriteFile(filepath.Join(entry, "vmm.log"), log, 0o600), os.WriteFile(filepath.Join(entry, "vmm.json"), b, 0o600),
	)
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestWhatAnOlderProgramStarted is known to be whose it is by what its VMM has open
// or was given: it runs on, other stores and copies leave it alone, and its own
// store has it in hand as before.
func TestWhatAnOlderProgramStarted(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	fresh := "vm create web --kernel guest.elf --memory 64M --start"
	for name, lines := range map[string][]string{
		"with a disk":                    {fresh + " --disk disk.raw"},
		"without one":                    {fresh},
		"without one, restored by copy":  {strings.Replace(fresh, "web", "first", 1), "snapshot create first base", "vm rm --force first", "vm create web --from-snapshot base --restore-mode copy"},
		"with one, restored from a file": {strings.Replace(fresh, "web", "first", 1) + " --disk disk.raw", "snapshot create first base", "vm rm --force first", "vm create web --from-snapshot base --restore-mode map"},
	} {
		t.Run(strings.ReplaceAll(name, ",", ""), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm)
			for _, line := range lines {
				h.must(strings.Fields(line)...)
			}
			h.counts("web")
			v := h.vm("web")
			n := &bystander{host: h, web: v}
			h.aged(v)
			runs := func(when string) {
				t.Helper()
				if now := h.vm("web"); now.State != "running" || now.PID != v.PID {
					t.Fatalf("%s it is %s, process %d", when, now.State, now.PID)
				}
				h.counts("web")
			}
			other, copied := n.beside(filepath.Join(t.TempDir(), "other"), h.run), n.copied(true)
			other.must("system", "init")
			if out := other.must("gc", "--explain"); !strings.Contains(out, "left") || !strings.Contains(out, "not known to be this store's") {
				t.Errorf("gc of another store: %s", out)
			}
			runs("after gc of another store")
			if c := copied.vm("web"); c.State != "stopped" {
				t.Errorf("in a copy it is %s", c.State)
			}
			start, _, stderr := copied.command([]string{"vm", "start", "web"})
			start.Run()
			if code := start.ProcessState.ExitCode(); code != 4 {
				t.Errorf("vm start in a copy: exit code %d: %s", code, stderr)
			}
			copied.must("vm", "rm", "--force", "web")
			copied.must("gc")
			runs("after rm and gc in a copy")
			h.must("gc")
			runs("after its own gc")
			h.must("snapshot", "create", "web", "saved")
			if b, err := os.ReadFile(filepath.Join(h.run, v.ID, "owner")); err != nil || len(b) == 0 {
				t.Errorf("after a capture it is not marked: %v", err)
			}
			h.must("vm", "stop", "web", "--timeout", "1ms")
			h.must("vm", "start", "web")
			h.counts("web")
			h.must("vm", "rm", "--force", "web")
			if left, _ := filepath.Glob(filepath.Join(h.run, "*", "*")); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			h.clean("saved")
		})
	}
}

// TestAnOlderProgramsVMMIsEndedByRm at once, and taken for what is left of a start
// that died.
func TestAnOlderProgramsVMMIsEndedByRm(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.aged(h.boot("web"))
	h.must("vm", "rm", "--force", "web")
	h.boot("half")
	h.must("vm", "stop", "half", "--timeout", "1ms")
	h.killed("vm.launched", "vm", "start", "half")
	v := h.vm("half")
	if v.State != "stopped" {
		t.Fatalf("it is %s", v.State)
	}
	h.must("vm", "start", "half")
	h.counts("half")
	if strangers := h.vmms(); len(strangers) != 1 {
		t.Errorf("VMMs %v", strangers)
	}
	h.must("vm", "rm", "--force", "half")
	h.clean()
}

// vmms are the processes that were started with a socket in the run folder.
func (h *host) vmms() (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && slices.ContainsFunc(strings.Split(string(b), "\x00"), func(arg string) bool { return strings.HasPrefix(arg, "path="+h.run+"/") }) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestKillAtEachNetworkStep kills the verbs that attach and detach at each of
// their steps: gc takes away what belongs to no VM, the verb repeated completes
// what belongs to one.
func TestKillAtEachNetworkStep(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(t, vmm, networktest.Bridge{Name: "kill", Subnet: "10.70.0.0/16", Masq: true})
	before := h.traces()
	h.killCreates(before)
	h.killStarts()
	h.killStops(before)
	h.killNetRestores(before)
	h.killWakes(before)
}

func (h *netHost) exists(name string) bool {
	h.t.Helper()
	return slices.Contains(strings.Fields(h.must("vm", "list", "--format", "{{.Name}}")), name)
}

func (h *netHost) killCreates(before []string) {
	h.t.Helper()
	args := guestAt("web", "kill", "10.70.0.5", "10.70.0.1")
	for _, step := range attachSteps {
		h.killed(step, args...)
		if h.exists("web") {
			h.t.Fatalf("killed at %s: the VM exists", step)
		}
		left := h.must("gc", "--dry-run")
		if !strings.Contains(left, "network") || !strings.Contains(left, "its VM does not exist: eth0") {
			h.t.Errorf("killed at %s: gc --dry-run does not name what is left:\n%s", step, left)
		}
		h.clean()
		h.sameTraces(before)
	}
	h.must(args...) // the address is free again
	h.must("vm", "rm", "web")
	h.sameTraces(before)
}

// killStarts kills an attach that first undoes the one before.
func (h *netHost) killStarts() {
	h.t.Helper()
	h.must(guestAt("web", "kill", "10.70.0.5", "10.70.0.1")...)
	was := h.onlyNetwork("web")
	for _, step := range slices.Concat(detachSteps, attachSteps[:3]) {
		h.killed(step, "vm", "start", "web")
		h.clean()
		h.must("vm", "start", "web")
		if now := h.onlyNetwork("web"); now.IP != was.IP || now.MAC != was.MAC {
			h.t.Errorf("killed at %s, then started: %+v, was %+v", step, now, was)
		}
		h.ping(was.IP)
		h.must("vm", "stop", "web", "--timeout", "1s")
	}
}

func (h *netHost) killStops(before []string) {
	h.t.Helper()
	for i, step := range slices.Concat([]string{"vm.discard.killed"}, detachSteps, []string{"vm.discard.trashed"}) {
		if i > 0 {
			h.must(guestAt("web", "kill", "10.70.0.5", "10.70.0.1")...)
		}
		h.must("vm", "start", "web")
		h.killed(step, "vm", "rm", "-f", "web")
		h.clean()
		if h.exists("web") {
			h.must("vm", "rm", "-f", "web")
		}
		h.sameTraces(before)
	}
}

// killNetRestores kills the rebuilding of a clone, which has a NAT too.
func (h *netHost) killNetRestores(before []string) {
	h.t.Helper()
	h.must(append(guestAt("web", "kill", "10.70.0.5", "10.70.0.1"), "--start")...)
	h.ping("10.70.0.5")
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "rm", "-f", "web")
	steps := slices.Concat(attachSteps[:3], []string{
		"restore.network", "restore.launch", "restore.load", "restore.resume", "restore.announce", "restore.published", "restore.record",
	})
	for i, step := range steps {
		how := []string{"keep", "fresh"}[i%2]
		h.killed(step, "vm", "create", "web", "--from-snapshot", "base", "--network", how)
		h.clean("base")
		if h.exists("web") {
			h.ping(h.onlyNetwork("web").IP)
			h.must("vm", "rm", "-f", "web")
		}
		h.sameTraces(before)
	}
	h.killed("restore.network#3", "vm", "create", "c", "--from-snapshot", "base", "--count", "4")
	h.clean("base")
	if left := strings.Fields(h.must("vm", "list", "-q")); len(left) > 0 {
		h.must(append([]string{"vm", "rm", "-f"}, left...)...)
	}
	h.sameTraces(before)
}

// killWakes kills the attach of a suspended VM, which stays suspended.
func (h *netHost) killWakes(before []string) {
	h.t.Helper()
	h.must("vm", "create", "web", "--from-snapshot", "base", "--network", "keep")
	h.must("vm", "suspend", "web")
	for _, step := range slices.Concat(detachSteps, attachSteps[:3], []string{"wake.network"}) {
		h.killed(step, "vm", "start", "web")
		h.clean("base")
		if v := h.vm("web"); v.State != "suspended" {
			h.t.Errorf("killed at %s: the VM is %s", step, v.State)
		}
	}
	h.must("vm", "start", "web")
	h.ping("10.70.0.5")
	h.must("vm", "rm", "-f", "web")
	h.sameTraces(before)
}

// TestPluginsThatCannotUndo: what they leave is kept on record, told with a
// remedy, and goes once they are mended.
func TestPluginsThatCannotUndo(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(t, vmm, networktest.Bridge{Name: "stuck", Subnet: "10.71.0.0/16", More: []map[string]any{{"type": "sticks"}}})
	networktest.WritePlugin(t, filepath.Join(h.bin, "sticks"), `[ -e "$0.stuck" ] && { echo '{"code":100,"msg":"out of luck"}'; exit 1; }
sed 's/.*"prevResult":\(.*\),"type".*/\1/'`)
	stuck := filepath.Join(h.bin, "sticks.stuck")
	before := h.traces()
	set := func(on bool) {
		t.Helper()
		var err error
		if on {
			err = os.WriteFile(stuck, nil, 0o600)
		} else {
			err = os.Remove(stuck)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	args := guestAt("web", "stuck", "10.71.0.5", "10.71.0.1")
	h.must(args...)
	set(true)
	h.refused(1, "out of luck", "repeat the command", "vm", "rm", "web")
	if !h.exists("web") {
		t.Error("the VM went although its network stays")
	}
	set(false)
	h.must("vm", "rm", "web")
	h.sameTraces(before)

	h.killed("vm.create.attached", args...)
	set(true)
	rep, code, said := h.collected("gc")
	if code != 1 || len(rep.Failed) != 1 || !strings.Contains(said, "out of luck") || !strings.Contains(said, "repeat the command") {
		t.Errorf("gc ends with %d: %+v: %s", code, rep.Failed, said)
	}
	if left, _ := os.ReadDir(filepath.Join(h.root, "trash")); len(left) > 0 {
		t.Errorf("the trash keeps %v", left)
	}
	set(false)
	h.clean()
	h.sameTraces(before)
}

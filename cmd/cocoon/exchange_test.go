package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/guest"
	"github.com/cocoonv2/cocoon/network/networktest"
)

var (
	exchangeSteps = []string{"exchange.reserve", "exchange.disks", "exchange.network", "exchange.memory", "exchange.launch", "exchange.load"}
	becomeSteps   = []string{
		"become.adopt", "become.network", "become.memory", "become.launch", "become.load", "vm.wake.saved",
		"become.commit", "become.resume",
	}
)

// wentBack holds a VM that was restored in place: it counts on from before past,
// without a boot, on the one disk that it has.
func (h *host) wentBack(name string, past uint32) {
	h.t.Helper()
	h.counts(name)
	log := h.must("vm", "logs", name)
	if strings.Contains(log, "BOOT") {
		h.t.Errorf("guest %s has booted", name)
	}
	for line := range strings.Lines(log) {
		if first, _, ok := guest.ParseTick(line); ok {
			if first > past {
				h.t.Errorf("guest %s begins at %d, after %d", name, first, past)
			}
			break
		}
	}
	h.oneDisk(name)
}

func (h *host) oneDisk(name string) {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.root, "vms", h.vm(name).ID, "disk-*"))
	if err != nil || len(found) != 1 {
		h.t.Errorf("VM %s has the disks %v, %v", name, found, err)
	}
}

// killExchanges: until the VM is put aside a kill does not touch it, until the
// new one has taken its place it sleeps as what it was, from then on it is the
// new one.
func killExchanges(h *host) {
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	base := h.tick("web") + 2 // of the snapshot at most
	h.counts("web")
	v := h.vm("web")
	for _, step := range exchangeSteps {
		before := h.tick("web")
		h.killed(step, "vm", "restore", "web", "base", "--restore-mode", "map")
		h.runsWithin(v, 0)
		h.clean("base")
		if now := h.tick("web"); now < before || h.vm("web").PID != v.PID {
			h.t.Errorf("killed at %s: the VM counts %d after %d, process %d was %d", step, now, before, h.vm("web").PID, v.PID)
		}
		h.oneDisk("web")
	}
	commit := slices.Index(becomeSteps, "become.commit")
	for _, step := range becomeSteps[:commit] {
		h.killed(step, "vm", "restore", "web", "base", "--restore-mode", "map")
		h.state("web", "suspended")
		h.clean("base")
		h.must("vm", "start", "web")
		h.counts("web")
		if now := h.tick("web"); now <= base {
			h.t.Errorf("killed at %s: the VM counts %d, it should be past %d", step, now, base)
		}
		h.oneDisk("web")
		h.clean("base")
	}
	for _, step := range becomeSteps[commit:] {
		for h.tick("web") <= base {
			h.counts("web")
		}
		h.killed(step, "vm", "restore", "web", "base", "--restore-mode", "map")
		h.state("web", "running")
		h.must("vm", "pause", "web") // a verb that holds the VM removes its former disks
		h.must("vm", "resume", "web")
		h.wentBack("web", base)
		h.clean("base")
	}
}

// TestAnExchangeThatFailsLeavesTheVM as it was.
func TestAnExchangeThatFailsLeavesTheVM(t *testing.T) {
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, fail := range []string{"vm.restore=fail", "vm.restore=die"} {
		v := h.vm("web")
		h.fails([]string{"CHSIM_FAIL=" + fail}, "vm", "restore", "web", "base", "--restore-mode", "map")
		if now := h.vm("web"); now.PID != v.PID {
			t.Errorf("%s: the VM has process %d, it was %d", fail, now.PID, v.PID)
		}
		h.runsWithin(v, 0)
		h.counts("web")
		h.clean("base")
		h.oneDisk("web")
	}
	// The new one cannot go on, and the old one neither: it sleeps.
	last := h.tick("web")
	said := h.fails([]string{"CHSIM_FAIL=vm.resume=fail"}, "vm", "restore", "web", "base")
	if !strings.Contains(said, "still suspended") {
		t.Errorf("the command says %q", said)
	}
	h.state("web", "suspended")
	h.must("vm", "start", "web")
	h.counts("web")
	if now := h.tick("web"); now <= last {
		t.Errorf("the VM counts %d after %d", now, last)
	}
	h.clean("base")
}

// TestAVMThatWasPutAsideGoesOn when the new one cannot take its place after all:
// its disk is taken away between the trial and the load.
func TestAVMThatWasPutAsideGoesOn(t *testing.T) {
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	base := h.tick("web") + 2
	h.counts("web")
	c, _, stderr := h.command([]string{"vm", "restore", "web", "base"}, durable.StopAt+"=become.adopt")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the command does not stand still: %v, %#x: %s", err, status, stderr)
	}
	adopted, err := filepath.Glob(filepath.Join(h.root, "vms", "*", "disk-0.*.raw"))
	if err != nil || len(adopted) != 1 {
		t.Fatalf("adopted disks %v, %v", adopted, err)
	}
	if err := os.Remove(adopted[0]); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || !strings.Contains(stderr.String(), "VM web goes on as it was") {
		t.Errorf("the command ended with %v: %s", err, stderr)
	}
	h.state("web", "running")
	h.counts("web")
	if now := h.tick("web"); now <= base {
		t.Errorf("the VM counts %d, it should be past %d", now, base)
	}
	h.oneDisk("web")
	h.clean("base")
	h.noFormerState()
}

func (h *host) noFormerState() {
	h.t.Helper()
	if left := h.must("snapshot", "list", "-q", "--filter", "label=cocoon.suspend"); left != "" {
		h.t.Errorf("snapshots that nobody sleeps on: %s", left)
	}
}

// TestExchangesOfAllModes on the real VMM where it works.
func TestExchangesOfAllModes(t *testing.T) {
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	base := h.tick("web") + 2
	for _, mode := range []string{"auto", "stream", "copy", "map"} {
		for deadline := time.Now().Add(time.Minute); h.tick("web") <= base && time.Now().Before(deadline); {
			h.counts("web")
		}
		h.must("vm", "restore", "web", "base", "--restore-mode", mode)
		h.wentBack("web", base)
	}
	h.clean("base")
	h.noFormerState()
}

// TestARestoreInPlaceKeepsTheAddress: the guest is on the network at once, and
// nothing of the trial is left there. A snapshot of another VM is refused.
func TestARestoreInPlaceKeepsTheAddress(t *testing.T) {
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		name, gw, ip := fmt.Sprintf("inp%d", n), fmt.Sprintf("10.%d.0.1", 90+n), fmt.Sprintf("10.%d.0.5", 90+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: name, Subnet: fmt.Sprintf("10.%d.0.0/16", 90+n)})
		before := h.traces()
		h.must(append(guestAt("web", name, ip, gw), "--start")...)
		h.ping(ip)
		h.must("snapshot", "create", "web", "base")
		first, traces := h.onlyNetwork("web"), h.traces()
		last, _ := h.beat(ip)
		for {
			if now, _ := h.beat(ip); now > last+20 {
				break
			}
		}
		h.must("vm", "restore", "web", "base")
		h.ping(ip)
		if diff := cmp.Diff(first, h.onlyNetwork("web")); diff != "" {
			t.Errorf("network (-before +after):\n%s", diff)
		}
		h.beat(ip)
		if now := h.traces(); len(now) != len(traces) { // the names of devices change
			t.Errorf("%d traces were %d: %q, %q", len(now), len(traces), now, traces)
		}
		h.wentBack("web", last+20)

		h.must("vm", "create", "alone", "--kernel", "guest.elf", "--memory", "64M", "--start")
		h.fails(6, "interfaces", "vm", "restore", "alone", "base")
		h.must("vm", "rm", "-f", "web", "alone")
		h.sameTraces(before)
		h.clean("base")
	})
}

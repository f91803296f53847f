package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
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
// new one has taken its place the guard wakes it as what it was, from then on it
// is the new one. In every case the guest runs, though no command is given; when
// the guard is killed too, the next command does its work.
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
	steps := slices.Concat([]string{"vm.suspend.paused", "store.commit.published", "vm.suspend.asleep", "vm.suspend.ended"}, becomeSteps)
	commit := slices.Index(steps, "become.commit")
	for i, step := range steps {
		h.countsPast("web", base)
		h.killed(step, "vm", "restore", "web", "base", "--restore-mode", "map")
		h.goesOnAlone(step, v.ID)
		h.isEither(step, i >= commit, base)
	}
	for i, step := range steps {
		h.countsPast("web", base)
		h.killedWithItsGuards(step, "vm", "restore", "web", "base", "--restore-mode", "map")
		h.must("gc")
		h.goesOnAlone(step, v.ID)
		h.isEither(step, i >= commit, base)
	}
}

func (h *host) countsPast(name string, n uint32) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); h.tick(name) <= n; h.counts(name) {
		if time.Now().After(deadline) {
			h.t.Fatalf("guest %s does not count past %d", name, n)
		}
	}
}

// isEither holds a VM whose restore in place was killed: it is the new one, which
// begins before base, or the old one, which is past it, and nothing is left.
func (h *host) isEither(step string, isNew bool, base uint32) {
	h.t.Helper()
	h.state("web", "running")
	h.must("vm", "pause", "web") // a verb that holds the VM removes its former disks
	h.must("vm", "resume", "web")
	if isNew {
		h.wentBack("web", base)
	} else {
		h.counts("web")
		h.oneDisk("web")
		if now := h.tick("web"); now <= base {
			h.t.Errorf("killed at %s: the VM counts %d, it should be past %d", step, now, base)
		}
	}
	h.clean("base")
	h.noFormerState()
}

// goesOnAlone waits until the VMM that the record names runs its guest. It looks
// at files and at the VMM: a command of cocoon would help.
func (h *host) goesOnAlone(step, id string) {
	h.t.Helper()
	dir := filepath.Join(h.root, "vms", id)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var rec struct{ Process struct{ APISocket string } }
		b, err := os.ReadFile(filepath.Join(dir, "record.json"))
		if err == nil {
			err = json.Unmarshal(b, &rec)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "suspend.json")); err == nil || rec.Process.APISocket == "" {
			continue
		}
		info, err := chsnap.NewClient(rec.Process.APISocket, 0).Info(context.Background())
		if err == nil && info.State == "Running" {
			return
		}
	}
	h.t.Fatalf("killed at %s: the guest does not go on by itself", step)
}

// killedWithItsGuards kills a command at a step, and before it every process
// that it started and that waits for its death.
func (h *host) killedWithItsGuards(step string, args ...string) {
	h.t.Helper()
	c, _, stderr := h.command(args, durable.StopAt+"="+step)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		h.t.Fatalf("cocoon %s does not stop at %s: %v, %#x: %s", strings.Join(args, " "), step, err, status, stderr)
	}
	guards := 0
	for _, pid := range children(h.t, c.Process.Pid) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(line, []byte(house.GuardVerb)) || bytes.Contains(line, []byte(house.RescueVerb)) {
			guards++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				h.t.Error(err)
			}
		}
	}
	if guards == 0 {
		h.t.Errorf("no guard at %s", step)
	}
	if err := c.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	c.Wait()
}

// children are the processes that any thread of one started.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(b)) {
			child, _ := strconv.Atoi(f)
			pids = append(pids, child)
		}
	}
	return pids
}

// TestAnExchangeThatFailsLeavesTheVM as it was.
func TestAnExchangeThatFailsLeavesTheVM(t *testing.T) {
	t.Parallel()
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
	// The new one cannot go on, and the old one neither: the next command, which
	// finds a VMM that works, wakes it.
	last := h.tick("web")
	said := h.fails([]string{"CHSIM_FAIL=vm.resume=fail"}, "vm", "restore", "web", "base")
	if !strings.Contains(said, "still suspended") {
		t.Errorf("the command says %q", said)
	}
	h.must("vm", "list")
	h.goesOnAlone("vm.resume", h.vm("web").ID)
	h.state("web", "running")
	h.counts("web")
	if now := h.tick("web"); now <= last {
		t.Errorf("the VM counts %d after %d", now, last)
	}
	h.clean("base")
}

// TestAVMThatWasPutAsideGoesOn when the new one cannot take its place after all:
// its disk is taken away between the trial and the load.
func TestAVMThatWasPutAsideGoesOn(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
		h.fails(6, "interfaces", "vm", "restore", "alone", "base", "--from-other")
		h.must("vm", "rm", "-f", "web", "alone")
		h.sameTraces(before)
		h.clean("base")
	})
}

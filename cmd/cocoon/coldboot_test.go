package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// argv is the command line of a VM's VMM, with what is this VM's own replaced.
func (h *host) argv(name string) []string {
	h.t.Helper()
	v := h.vm(name)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", v.PID))
	if err != nil {
		h.t.Fatal(err)
	}
	var args []string
	for _, a := range strings.Split(strings.TrimRight(string(b), "\x00"), "\x00") {
		a = strings.ReplaceAll(a, v.APISocket, "SOCKET")
		args = append(args, strings.ReplaceAll(a, v.ID, "ID"))
	}
	return args
}

// devices are what the VMM itself says of the devices that it has: the ids and
// properties of each, without the paths and what it filled in.
func (h *host) devices(name string) map[string]any {
	h.t.Helper()
	v := h.vm(name)
	config := h.configuration(name)
	out := map[string]any{}
	for _, key := range []string{"cpus", "payload", "disks", "net", "serial", "console", "rng"} {
		text, _ := json.Marshal(config[key])
		out[key] = strings.ReplaceAll(string(text), v.ID, "ID")
	}
	return out
}

// configuration is what the VMM of a VM says that its VM is.
func (h *host) configuration(name string) map[string]any {
	h.t.Helper()
	v := h.vm(name)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", v.APISocket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://vmm/api/v1/vm.info")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var info struct{ Config map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		h.t.Fatal(err)
	}
	return info.Config
}

// TestARebuiltVMLivesAnOrdinaryLife: once stopped it boots as the very machine that
// was saved, with its device ids and serials, whatever its record says.
func TestARebuiltVMLivesAnOrdinaryLife(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	if err := os.WriteFile(h.work+"/base.raw", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("vm", "create", "web", "--kernel", "guest.elf", "--cmdline", "fill=8 dirty=2", "--cpus", "2", "--memory", "64M",
		"--disk", "disk.raw", "--disk", "base.raw,readonly", "--ch-arg=--watchdog", "--start")
	h.counts("web")
	devices, machine := h.devices("web"), machineOf(h.configuration("web"))
	h.must("snapshot", "create", "web", "one")
	h.must("vm", "rm", "-f", "web")
	h.must("vm", "create", "web", "--from-snapshot", "one")
	h.counts("web")
	if diff := cmp.Diff(devices, h.devices("web")); diff != "" {
		t.Errorf("devices after the rebuild (-before +after):\n%s", diff)
	}
	for i := range 2 {
		h.must("vm", "stop", "web", "--timeout", "1s")
		h.must("vm", "start", "web")
		h.counts("web")
		if diff := cmp.Diff(machine, machineOf(h.configuration("web"))); diff != "" {
			t.Errorf("machine of cold boot %d (-first boot +now):\n%s", i, diff)
		}
		if diff := cmp.Diff(devices, h.devices("web")); diff != "" {
			t.Errorf("devices of cold boot %d (-first boot +now):\n%s", i, diff)
		}
	}
	h.must("vm", "suspend", "web")
	h.must("vm", "start", "web")
	if diff := cmp.Diff(devices, h.devices("web")); diff != "" {
		t.Errorf("devices after a suspend (-before +after):\n%s", diff)
	}
	h.clean("one")
}

// powerCut ends every process of the host's VMs and empties the run folder, and
// /dev/shm of what is theirs.
func (h *host) powerCut() {
	h.t.Helper()
	leaveNothing(h.run)
}

// TestAfterAReboot of the host `vm list` says what is, and `vm start` brings
// each VM back: one that ran and one that was rebuilt boot from their disks, one
// that was suspended goes on.
func TestAfterAReboot(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("runs")
	h.must("snapshot", "create", "runs", "one")
	h.must("vm", "create", "rebuilt", "--from-snapshot", "one")
	h.must("vm", "create", "sleeps", "--from-snapshot", "one")
	h.counts("sleeps")
	h.must("vm", "suspend", "sleeps")
	last := h.tick("sleeps")
	h.must("vm", "create", "never", "--kernel", "guest.elf", "--memory", "64M")
	// As if the reboot came in the middle of a pause: nobody owes anything then.
	h.must("vm", "pause", "rebuilt")

	h.powerCut()
	want := "never created\nrebuilt stopped\nruns stopped\nsleeps suspended"
	if got := h.must("vm", "list", "--format", "{{.Name}} {{.State}}"); got != want {
		t.Errorf("after the reboot:\n%s\nwant:\n%s", got, want)
	}
	h.clean("one")
	h.must("vm", "start", "runs", "rebuilt", "sleeps", "never")
	h.goesOn("sleeps", last)
	for _, name := range []string{"runs", "rebuilt", "never"} {
		h.counts(name)
		if log := h.must("vm", "logs", name); !strings.HasPrefix(log, "BOOT") {
			t.Errorf("%s did not boot: %.20q", name, log)
		}
	}
	h.clean("one")
}

// TestASuspendedVMKeepsItsAddress, also over a reboot of the host.
func TestASuspendedVMKeepsItsAddress(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		name, gw, ip := fmt.Sprintf("zzz%d", n), fmt.Sprintf("10.%d.0.1", 80+n), fmt.Sprintf("10.%d.0.5", 80+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: name, Subnet: fmt.Sprintf("10.%d.0.0/16", 80+n)})
		before := h.traces()
		h.must(append(guestAt("web", name, ip, gw), "--start")...)
		h.ping(ip)
		first := h.onlyNetwork("web")
		for _, cut := range []bool{false, true} {
			last, _ := h.beat(ip)
			h.must("vm", "suspend", "web")
			h.fails(4, ip+" belongs to VM", guestAt("thief", name, ip, gw)...)
			if cut {
				h.reboot("br-" + name)
			}
			h.must("vm", "start", "web")
			if next, inside := h.beat(ip); next <= last || inside != ip {
				t.Errorf("reboot %t: beat %d of %s after %d", cut, next, inside, last)
			}
			h.ping(ip)
			if diff := cmp.Diff(first, h.onlyNetwork("web")); diff != "" {
				t.Errorf("reboot %t (-before +after):\n%s", cut, diff)
			}
		}
		h.must("vm", "suspend", "web")
		h.must("vm", "rm", "web")
		h.sameTraces(before)
		h.clean()
	})
}

// TestTheGatewaysMACMayChange while a VM sleeps or is a snapshot: the guest
// remembers the old one, and is heard at once all the same. By itself it asks for
// the MAC again at every 256th count only; nothing else tells it here.
func TestTheGatewaysMACMayChange(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		name, gw, ip := fmt.Sprintf("mac%d", n), fmt.Sprintf("10.%d.0.1", 70+n), fmt.Sprintf("10.%d.0.5", 70+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: name, Subnet: fmt.Sprintf("10.%d.0.0/16", 70+n)})
		h.must(append(guestAt("web", name, ip, gw), "--start")...)
		h.ping(ip)
		h.must("snapshot", "create", "web", "one")
		for what, again := range map[string]func(){
			"wake": func() {
				h.must("vm", "suspend", "web")
				h.reboot("br-" + name)
				h.must("vm", "start", "web")
			},
			"restore": func() {
				h.must("vm", "rm", "-f", "web")
				h.reboot("br-" + name)
				h.must("vm", "create", "web", "--from-snapshot", "one")
			},
		} {
			h.heardAtOnce(what, "br-"+name, ip, again)
			h.ping(ip)
		}
		h.must("vm", "rm", "-f", "web")
		h.clean("one")
	})
}

const guestAsksEvery = 256 // counts; ASK_EVERY of the guest

// heardAtOnce: the first heartbeat after again comes before the guest has asked.
// Where a slow machine took as long as that, again is done again.
func (h *netHost) heardAtOnce(what, bridge, ip string, again func()) {
	h.t.Helper()
	for range 8 {
		before := linkAddress(h.t, bridge)
		again()
		if linkAddress(h.t, bridge) == before {
			h.t.Fatalf("%s has its MAC still", bridge)
		}
		first := h.firstTick("web")
		heard, _ := h.beat(ip)
		h.t.Logf("%s: the guest goes on at %d and is heard at %d", what, first, heard)
		if first/guestAsksEvery == heard/guestAsksEvery && first%guestAsksEvery > 0 {
			return
		}
	}
	h.t.Errorf("%s: the guest was heard only after it had asked for its gateway", what)
}

func linkAddress(t *testing.T, name string) string {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.HardwareAddr.String()
}

// firstTick is the count at which a guest went on.
func (h *host) firstTick(name string) uint32 {
	h.t.Helper()
	h.counts(name)
	for line := range strings.Lines(h.must("vm", "logs", name)) {
		if first, _, ok := guest.ParseTick(line); ok {
			return first
		}
	}
	h.t.Fatalf("guest %s has printed no counter", name)
	return 0
}

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// netHost is a host whose VMs go on a bridge network of Debian's plugins. It
// lives in namespaces of the test's own.
type netHost struct {
	*host
	conf, bin string
}

// beatPort is where guests send their heartbeats.
const beatPort = "9999"

func newNetHost(t *testing.T, vmm string, nets ...networktest.Bridge) *netHost {
	t.Helper()
	dir := t.TempDir()
	h := &netHost{conf: filepath.Join(dir, "conf"), bin: filepath.Join(dir, "bin")}
	h.host = newHost(t, vmm, "COCOON_CNI_CONF_DIR="+h.conf, "COCOON_CNI_BIN_DIR="+h.bin+":"+networktest.NeedPlugins(t))
	for _, d := range []string{h.conf, h.bin} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nets {
		networktest.WriteConflist(t, filepath.Join(h.conf, n.Name+".conflist"), n)
	}
	return h
}

// eachVMM runs a test with the simulator, and with the real VMM where it works
// and nothing else is asked for.
func eachVMM(t *testing.T, test func(t *testing.T, vmm string)) {
	vmm, real := chsnaptest.VMM(t)
	name := "simulator"
	if real {
		name = "real VMM"
	}
	t.Run(name, func(t *testing.T) { test(t, vmm) })
	if real && os.Getenv("COCOON_TEST_VMM") == "" {
		t.Run("simulator", func(t *testing.T) { test(t, chsnaptest.Build(t)) })
	}
}

func (h *netHost) traces() []string {
	h.t.Helper()
	return networktest.Traces(h.t, filepath.Join(h.root, "network"))
}

func (h *netHost) sameTraces(before []string) {
	h.t.Helper()
	networktest.SameTraces(h.t, filepath.Join(h.root, "network"), before)
}

func (h *netHost) ping(ip string) {
	h.t.Helper()
	if err := networktest.Ping(networktest.Here, ip, networktest.GuestPatience); err != nil {
		h.t.Error(err)
	}
}

// guestAt are the arguments of a VM whose guest has an address.
func guestAt(name, network, ip, gateway string) []string {
	return []string{
		"vm", "create", name, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--network", network + ",ip=" + ip,
		"--cmdline", "fill=4,net=" + ip + "/16,gw=" + gateway + ",hb=" + beatPort,
	}
}

// beat waits for a heartbeat that is sent after the call and comes from an
// outside address: what counter and address the guest has. The port is open only
// meanwhile, so that nothing older waits in it.
func (h *netHost) beat(from string) (counter uint32, inside string) {
	h.t.Helper()
	beats, err := net.ListenPacket("udp4", ":"+beatPort)
	if err != nil {
		h.t.Fatal(err)
	}
	defer beats.Close()
	beats.SetReadDeadline(time.Now().Add(networktest.GuestPatience))
	buf := make([]byte, 256)
	for {
		n, addr, err := beats.ReadFrom(buf)
		if err != nil {
			h.t.Fatalf("no heartbeat of %s: %v", from, err)
		}
		if host, _, _ := net.SplitHostPort(addr.String()); host != from {
			continue
		}
		counter, ip, ok := guest.ParseBeat(buf[:n])
		if !ok {
			h.t.Fatalf("heartbeat of %s: %q", from, buf[:n])
		}
		return counter, ip.String()
	}
}

// onlyNetwork is the one interface of a VM.
func (h *netHost) onlyNetwork(name string) vmNetwork {
	h.t.Helper()
	v := h.vm(name)
	if len(v.Networks) != 1 {
		h.t.Fatalf("VM %s has the networks %+v", name, v.Networks)
	}
	return v.Networks[0]
}

// fails runs a command that has to fail with a code and these words.
func (h *netHost) fails(code int, words string, args ...string) {
	h.t.Helper()
	h.refused(code, words, "", args...)
}

// refused is fails with a remedy.
func (h *netHost) refused(code int, words, hint string, args ...string) {
	h.t.Helper()
	c, out, stderr := h.command(args)
	err := c.Run()
	if got := c.ProcessState.ExitCode(); got != code {
		h.t.Errorf("cocoon %s: exit code %d, want %d (%v): %s", strings.Join(args, " "), got, code, err, stderr)
	}
	text, remedy, _ := strings.Cut(stderr.String(), "\nhint: ")
	if !strings.Contains(text, words) || !strings.HasPrefix(text, "cocoon: ") || out.Len() > 0 {
		h.t.Errorf("cocoon %s: stderr %q, stdout %q; want %q", strings.Join(args, " "), text, out, words)
	}
	if !strings.Contains(remedy, hint) {
		h.t.Errorf("cocoon %s: remedy %q, want %q", strings.Join(args, " "), remedy, hint)
	}
}

// reboot is what a power cut leaves: no process, no run folder, no netns, no
// device but those of the hardware.
func (h *netHost) reboot(bridges ...string) {
	h.t.Helper()
	leaveNothing(h.run)
	found, _ := filepath.Glob("/run/netns/cocoon-*")
	for _, path := range found {
		if out, err := exec.Command("ip", "netns", "del", filepath.Base(path)).CombinedOutput(); err != nil {
			h.t.Fatalf("%v: %s", err, out)
		}
	}
	for _, b := range bridges {
		if out, err := exec.Command("ip", "link", "del", b).CombinedOutput(); err != nil {
			h.t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestVMOnANetwork(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		name, gw, ip := fmt.Sprintf("lan%d", n), fmt.Sprintf("10.%d.0.1", 60+n), fmt.Sprintf("10.%d.0.5", 60+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: name, Subnet: fmt.Sprintf("10.%d.0.0/16", 60+n), MTU: 1400})
		before := h.traces()
		h.must(append(guestAt("web", name, ip, gw), "--start")...)
		first := h.onlyNetwork("web")
		if first.IP != ip || first.Name != name || first.Tap != "tap0" || first.Netns == "" || first.MAC == "" || first.Identity != "keep" {
			t.Errorf("network %+v", first)
		}
		if table := h.must("vm", "list"); !strings.Contains(table, ip) {
			t.Errorf("vm list does not show %s:\n%s", ip, table)
		}
		if got := h.must("vm", "list", "-q", "--filter", "ip="+ip); got == "" {
			t.Error("vm list --filter ip finds nothing")
		}
		h.ping(ip)
		if _, inside := h.beat(ip); inside != ip {
			t.Errorf("the guest believes to be %s", inside)
		}

		// A stopped VM keeps its address.
		h.must("vm", "stop", "web", "--timeout", "1s")
		h.fails(4, ip+" belongs to VM", guestAt("thief", name, ip, gw)...)
		h.must("vm", "start", "web")
		h.ping(ip)

		h.reboot("br-" + name)
		h.must("vm", "start", "web")
		if diff := cmp.Diff(first, h.onlyNetwork("web")); diff != "" {
			t.Errorf("after the reboot (-before +after):\n%s", diff)
		}
		h.ping(ip)
		last, _ := h.beat(ip)

		// A suspended VM keeps it too, also over a reboot, and its RAM.
		h.must("vm", "suspend", "web")
		h.fails(4, ip+" belongs to VM", guestAt("thief", name, ip, gw)...)
		h.reboot("br-" + name)
		h.must("vm", "start", "web")
		if diff := cmp.Diff(first, h.onlyNetwork("web")); diff != "" {
			t.Errorf("after the sleep (-before +after):\n%s", diff)
		}
		h.ping(ip)
		if next, _ := h.beat(ip); next <= last {
			t.Errorf("heartbeat %d after the sleep, %d before", next, last)
		}

		var kept struct{ Removed, Kept []struct{ Kind, ID string } }
		if err := json.Unmarshal([]byte(h.must("gc", "--explain", "--format", "json")), &kept); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(fmt.Sprint(kept.Kept), "{network "+h.vm("web").ID+"}") || strings.Contains(fmt.Sprint(kept.Removed), "network") {
			t.Errorf("gc --explain: %+v", kept)
		}
		h.untold()
		h.must("vm", "rm", "-f", "web")
		h.sameTraces(before)
		h.clean()
	})
}

// untold: a guest whose network cannot be told runs all the same, and its record
// says so.
func (h *netHost) untold() {
	h.t.Helper()
	h.must("vm", "pause", "web")
	if out, err := exec.Command("ip", "netns", "del", filepath.Base(h.onlyNetwork("web").Netns)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.fails(1, "VM web runs, but its addresses were not announced", "vm", "resume", "web")
	if v := h.vm("web"); v.State != "running" {
		h.t.Errorf("state %s", v.State)
	}
}

// TestAGuestIsToldItsAddress that the network chose, by its command line; behind
// NAT it is told the one that it remembers.
func TestAGuestIsToldItsAddress(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(t, vmm, networktest.Bridge{Name: "told", Subnet: "10.79.0.0/16"})
	told := []string{"--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--cmdline", "fill=4,net={prefix},gw={gateway},hb=" + beatPort}
	h.must(append([]string{"vm", "create", "web", "--network", "told", "--start"}, told...)...)
	ip := h.onlyNetwork("web").IP
	if _, inside := h.beat(ip); inside != ip {
		t.Errorf("the guest on %s believes to be %s", ip, inside)
	}
	h.must(append([]string{"vm", "create", "fixed", "--network", "told,ip=10.79.0.9"}, told...)...) // its gateway is known when it starts
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "rm", "--force", "web")
	h.must("vm", "create", "thief", "--kernel", "guest.elf", "--memory", "64M", "--network", "told,ip="+ip)
	h.must("vm", "create", "again", "--from-snapshot", "base", "--network", "fresh")
	h.must("vm", "stop", "again", "--timeout", "1s")
	h.must("vm", "start", "again")
	if _, inside := h.beat(h.onlyNetwork("again").IP); inside != ip {
		t.Errorf("behind NAT the guest is %s, want %s", inside, ip)
	}
	h.fails(2, "needs {prefix}", append([]string{"vm", "create", "lone"}, told...)...)
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestAVMIsStartedWhereANetworkIs: the one that it was on is renumbered, or gone. It
// keeps its interfaces and what its guest remembers; a start that fails leaves it
// where it was.
func TestAVMIsStartedWhereANetworkIs(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		lan, far := fmt.Sprintf("mov%d", n), fmt.Sprintf("off%d", n)
		prefix, beyond := fmt.Sprintf("10.%d.0.", 100+n), fmt.Sprintf("10.%d.0.", 110+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: lan, Subnet: prefix + "0/16"}, networktest.Bridge{Name: far, Subnet: beyond + "0/16"})
		before := h.traces()
		h.must(append(guestAt("web", lan, prefix+"5", prefix+"1"), "--start")...)
		h.reaches("web", prefix+"5")
		h.must("vm", "stop", "web", "--timeout", "1s")

		h.reboot("br-" + lan)
		networktest.WriteConflist(t, filepath.Join(h.conf, lan+".conflist"), networktest.Bridge{Name: lan, Subnet: fmt.Sprintf("10.%d.0.0/16", 120+n)})
		h.refused(6, "failed to allocate", "cocoon vm start web --network fresh", "vm", "start", "web")
		h.moves("web", "fresh", "fresh on "+lan)
		h.reaches("web", prefix+"5")
		h.must("vm", "stop", "web", "--timeout", "1s")
		h.must("vm", "start", "web") // it stays so
		h.reaches("web", prefix+"5")
		h.must("vm", "stop", "web", "--timeout", "1s")

		if err := os.Remove(filepath.Join(h.conf, lan+".conflist")); err != nil {
			t.Fatal(err)
		}
		h.refused(3, lan, "fresh=NAME", "vm", "start", "web")
		was := h.onlyNetwork("web")
		h.refused(3, "nowhere", "", "vm", "start", "web", "--network", "fresh=nowhere")
		h.refused(2, "2 networks given", "", "vm", "start", "web", "--network", "none", "--network", "none")
		h.refused(2, "queue pairs", "", "vm", "start", "web", "--network", far+",queues=2")
		if now := h.onlyNetwork("web"); now.Name != was.Name || now.IP != was.IP {
			t.Errorf("it is on %+v, was on %+v", now, was)
		}
		h.killed("network.added", "vm", "start", "web", "--network", "fresh="+far)
		h.state("web", "error")
		h.moves("web", "fresh="+far, "fresh on "+far)
		h.reaches("web", prefix+"5")
		h.asleep(fmt.Sprintf("mow%d", n), fmt.Sprintf("10.%d.0.0/16", 130+n), prefix)
		h.booted(far, beyond)
		h.must("vm", "rm", "-f", "web")
		h.sameTraces(before)
		h.clean()
	})
}

// moves starts a VM and holds what is said of its interface.
func (h *netHost) moves(name, to, want string) {
	h.t.Helper()
	if said := h.told("vm", "start", name, "--network", to); !strings.Contains(said, want) {
		h.t.Errorf("--network %s: told %q, want %q", to, said, want)
	}
}

// asleep: a guest that goes on from its RAM keeps what it remembers, and stays
// asleep until there is a network for it.
func (h *netHost) asleep(lan, subnet, prefix string) {
	h.t.Helper()
	h.must("vm", "suspend", "web")
	last := h.tick("web")
	files, err := filepath.Glob(filepath.Join(h.conf, "*.conflist"))
	if err != nil || len(files) != 1 {
		h.t.Fatalf("%v, %v", files, err)
	}
	h.away(files[0])
	h.refused(3, "", "it is still suspended", "vm", "start", "web")
	h.refused(2, "keeps its address", "fresh="+lan, "vm", "start", "web", "--network", lan)
	h.refused(3, "nowhere", "", "vm", "start", "web", "--cold", "--network", "nowhere")
	h.state("web", "suspended")
	networktest.WriteConflist(h.t, filepath.Join(h.conf, lan+".conflist"), networktest.Bridge{Name: lan, Subnet: subnet})
	h.moves("web", "fresh="+lan, "fresh on "+lan)
	h.goesOn("web", last)
	h.reaches("web", prefix+"5")
	h.back(files[0])
	h.must("vm", "suspend", "web")
	h.must("vm", "start", "web") // it stays so
	h.reaches("web", prefix+"5")
}

func (h *netHost) away(file string) { h.rename(file, file+".away") }
func (h *netHost) back(file string) { h.rename(file+".away", file) }

func (h *netHost) rename(from, to string) {
	h.t.Helper()
	if err := os.Rename(from, to); err != nil {
		h.t.Fatal(err)
	}
}

// booted: a guest that boots is told where it is.
func (h *netHost) booted(far, beyond string) {
	h.t.Helper()
	if out, err := exec.Command("ip", strings.Fields("tuntap add movetap mode tap vnet_hdr")...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.must("vm", "create", "told", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--network", far,
		"--cmdline", "fill=4,net={prefix},gw={gateway},hb="+beatPort, "--start")
	h.reaches("told", h.onlyNetwork("told").IP)
	h.must("snapshot", "create", "told", "saved")
	h.must("vm", "create", "rebuilt", "--from-snapshot", "saved", "--network", "none")
	for _, name := range []string{"told", "rebuilt"} {
		ip, mac := beyond+"77", "02:00:00:00:00:77"
		h.must("vm", "stop", name, "--timeout", "1s")
		h.moves(name, far+",ip="+ip+",mac="+mac, "join on "+far)
		if got := h.onlyNetwork(name); got.IP != ip || got.MAC != mac || got.Identity != "keep" {
			h.t.Errorf("%s is %+v", name, got)
		}
		h.reaches(name, ip)
		h.must("vm", "stop", name, "--timeout", "1s")
		h.refused(2, "needs {prefix}", "", "vm", "start", name, "--network", "tap=movetap")
		h.must("vm", "rm", name)
	}
	h.must("vm", "create", "plain", "--kernel", "guest.elf", "--memory", "64M", "--network", far, "--cmdline", "fill=4", "--start")
	h.must("vm", "stop", "plain", "--timeout", "1s")
	for _, to := range []string{"tap=movetap", "none", far} {
		h.moves("plain", to, "interface _net0")
		h.counts("plain")
		h.must("vm", "stop", "plain", "--timeout", "1s")
	}
	h.must("vm", "create", "alone", "--kernel", "guest.elf", "--memory", "64M")
	h.refused(2, "no interface", "--network", "vm", "start", "alone", "--network", far)
	h.must("vm", "rm", "alone", "plain")
	h.must("snapshot", "rm", "saved")
	if out, err := exec.Command("ip", "link", "del", "movetap").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestVMOnATapOfTheHost needs no plugin: the operator made the TAP, and cocoon
// leaves it where it is.
func TestVMOnATapOfTheHost(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(t, vmm)
	for _, args := range []string{"tuntap add mytap mode tap vnet_hdr", "addr add 10.96.0.1/16 dev mytap", "tuntap add other mode tap vnet_hdr"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	before := h.traces()
	h.must(
		"vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start",
		"--network", "tap=mytap", "--cmdline", "fill=4,net=10.96.0.5/16,gw=10.96.0.1,hb="+beatPort,
	)
	if n := h.onlyNetwork("web"); n.Name != "tap" || n.Tap != "mytap" || n.Netns != "" || n.MAC == "" {
		t.Errorf("network %+v", n)
	}
	h.ping("10.96.0.5")
	h.must("snapshot", "create", "web", "base")
	h.refused(4, "TAP mytap: a process has it open", "stop the VM", "vm", "create", "twin", "--from-snapshot", "base")
	h.refused(6, "TAP mytap serves one VM", "--network none", "vm", "create", "c", "--from-snapshot", "base", "--count", "2")
	h.refused(6, "needs a CNI network", "fresh=CNI-NAME", "vm", "create", "c", "--from-snapshot", "base", "--network", "fresh")
	h.must("vm", "create", "twin", "--from-snapshot", "base", "--network", "tap=other")
	h.counts("twin")
	h.must("vm", "rm", "-f", "twin", "web")
	if told := h.told("vm", "create", "web", "--from-snapshot", "base"); !strings.Contains(told, "tap on mytap (its TAP is the host's)") {
		t.Errorf("told %q", told)
	}
	h.ping("10.96.0.5")
	h.must("vm", "rm", "-f", "web")

	// A folder that somebody made names a TAP; that it is one of this host too is
	// chance.
	h.must("snapshot", "export", "base", "-o", "folder")
	h.must("snapshot", "import", "folder", "--name", "from-elsewhere")
	if told := h.told("vm", "create", "web", "--from-snapshot", "from-elsewhere"); !strings.Contains(told, "none (the snapshot was imported") {
		t.Errorf("told %q", told)
	}
	h.counts("web")
	h.must("vm", "rm", "-f", "web")
	h.must("vm", "create", "web", "--from-snapshot", "from-elsewhere", "--network", "tap=mytap")
	h.ping("10.96.0.5")
	h.must("vm", "rm", "-f", "web")
	h.sameTraces(before)
	h.clean("base", "from-elsewhere")
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestNetworksThatCannotBe holds each refusal against its exit code, its words
// and a remedy, and the host against what it was.
func TestNetworksThatCannotBe(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(
		t, vmm,
		networktest.Bridge{Name: "lan", Subnet: "10.90.0.0/16"},
		networktest.Bridge{Name: "small", Subnet: "10.91.0.0/16", MTU: 1400},
		networktest.Bridge{Name: "tiny", Subnet: "10.92.0.0/30"},
		networktest.Bridge{Name: "lacks", Subnet: "10.93.0.0/16", More: []map[string]any{{"type": "no-such-plugin"}}},
		networktest.Bridge{Name: "half", Subnet: "10.94.0.0/16", More: []map[string]any{{"type": "fails"}}},
	)
	h.refused(3, `network "gone"`, "there are: half, lacks, lan, small, tiny", "vm", "create", "x", "--kernel", "guest.elf", "--network", "gone")
	networktest.WritePlugin(t, filepath.Join(h.bin, "fails"), `[ "$CNI_COMMAND" = DEL ] || { echo '{"code":100,"msg":"out of luck"}'; exit 1; }`)
	broken := filepath.Join(h.conf, "broken.conflist")
	if err := os.WriteFile(broken, []byte(`{"name":"broken","plugins":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tap := range [][]string{{"single"}, {"multi", "multi_queue"}} {
		if out, err := exec.Command("ip", append([]string{"tuntap", "add", "mode", "tap", "vnet_hdr", "name"}, tap...)...).CombinedOutput(); err != nil {
			t.Fatalf("make a TAP: %v: %s", err, out)
		}
	}
	h.must(append(guestAt("web", "lan", "10.90.0.5", "10.90.0.1"), "--start")...)
	mac := h.onlyNetwork("web").MAC
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "create", "last", "--kernel", "guest.elf", "--network", "tiny")

	boot := []string{"vm", "create", "x", "--kernel", "guest.elf", "--memory", "64M", "--start"}
	many := []string{}
	for range 17 {
		many = append(many, "--network", "lan")
	}
	before := h.traces()
	for _, c := range []struct {
		code         int
		words, hints string
		args         []string
	}{
		{2, broken, "mend", []string{"--network", "broken"}},
		{3, "no-such-plugin", "containernetworking-plugins", []string{"--network", "lacks"}},
		{1, "out of luck", "plugin's manual", []string{"--network", "half"}},
		{1, "out of luck", "plugin's manual", []string{"--network", "lan", "--network", "half"}},
		{6, "10.1.1.1", "outside the ranges", []string{"--network", "lan,ip=10.1.1.1"}},
		{4, "address 10.90.0.5 belongs to VM", "remove that VM", []string{"--network", "lan,ip=10.90.0.5"}},
		{4, "MAC " + mac + " belongs to VM", "remove that VM", []string{"--network", "lan,mac=" + strings.ToUpper(mac)}},
		{4, "no IP addresses available", "widen", []string{"--network", "tiny"}},
		{2, "17 interfaces", "", many},
		{2, "no address", "", []string{"--network", "lan,ip=10.90.0"}},
		{2, "is not the MAC", "", []string{"--network", "lan,mac=01:00:00:00:00:01"}},
		{2, "queue pairs", "", []string{"--network", "lan,queues=1000"}},
		{2, "one netns", "", []string{"--network", "lan", "--network", "tap=single"}},
		{3, "TAP gone", "ip tuntap add", []string{"--network", "tap=gone"}},
		{2, "another kind of device", "name a TAP", []string{"--network", "tap=lo"}},
		{6, "multi queue is false", "multi_queue", []string{"--network", "tap=single,queues=2"}},
	} {
		h.refused(c.code, c.words, c.hints, append(boot, c.args...)...)
		h.sameTraces(before)
	}
	h.refused(6, "MTU 1400", "raise the MTU", "vm", "create", "x", "--from-snapshot", "base", "--network", "fresh=small")
	h.sameTraces(before)
	h.refused(6, "multi queue is true", "multi_queue", "vm", "create", "x", "--from-snapshot", "base", "--network", "tap=multi")
	h.sameTraces(before)
	if names := h.must("vm", "list", "--format", "{{.Name}}"); names != "last\nweb" {
		t.Errorf("VMs after the refusals: %q", names)
	}
	h.takenNetns()
	h.must("vm", "rm", "-f", "web")
	h.oneKeeps()
	h.clean("base")
}

// oneKeeps: of several that want one address at the same time, one gets it.
func (h *netHost) oneKeeps() {
	h.t.Helper()
	const wanting = 4
	codes := make(chan int, wanting)
	for i := range wanting {
		go func() {
			c, _, _ := h.command([]string{"vm", "create", fmt.Sprint("keep", i), "--from-snapshot", "base", "--network", "keep"})
			_ = c.Run()
			codes <- c.ProcessState.ExitCode()
		}()
	}
	count := map[int]int{}
	for range wanting {
		count[<-codes]++
	}
	if count[0] != 1 || count[4] != wanting-1 {
		h.t.Errorf("exit codes %v, want one 0 and the rest 4", count)
	}
	h.ping("10.90.0.5")
	h.must("vm", "rm", "-f", h.must("vm", "list", "-q"))
}

// takenNetns: a netns of somebody else under the name of the VM's is left alone,
// and its VM starts once it is gone.
func (h *netHost) takenNetns() {
	h.t.Helper()
	netns := filepath.Base(h.onlyNetwork("last").Netns)
	for _, verb := range []string{"del", "add"} {
		if out, err := exec.Command("ip", "netns", verb, netns).CombinedOutput(); err != nil {
			h.t.Fatalf("ip netns %s: %v: %s", verb, err, out)
		}
	}
	h.refused(4, "not cocoon", "ip netns del "+netns, "vm", "start", "last")
	if out, err := exec.Command("ip", "netns", "del", netns).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.must("vm", "start", "last")
	h.must("vm", "rm", "-f", "last")
}

// TestSixteenInterfacesOfFourQueues is as much as a VM may have.
func TestSixteenInterfacesOfFourQueues(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	vmm, _ := chsnaptest.VMM(t)
	h := newNetHost(t, vmm, networktest.Bridge{Name: "many", Subnet: "10.95.0.0/16"})
	before := h.traces()
	args := []string{"vm", "create", "wide", "--kernel", "guest.elf", "--memory", "64M", "--cpus", "2", "--start"}
	for range 16 {
		args = append(args, "--network", "many,queues=2")
	}
	h.must(args...)
	h.counts("wide")
	if v := h.vm("wide"); len(v.Networks) != 16 || v.Networks[15].Tap != "tap15" || v.Networks[15].Netns != v.Networks[0].Netns {
		t.Errorf("networks %+v", v.Networks)
	}
	h.must("snapshot", "create", "wide", "base")
	h.must("vm", "rm", "-f", "wide")
	h.must("vm", "create", "wide", "--from-snapshot", "base")
	h.counts("wide")
	h.must("vm", "rm", "-f", "wide")
	h.sameTraces(before)
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
	"github.com/cocoonv2/cocoon/store"
)

// told runs a command that has to succeed and answers what it says on stderr.
func (h *netHost) told(args ...string) string {
	h.t.Helper()
	c, _, stderr := h.command(args)
	if err := c.Run(); err != nil {
		h.t.Fatalf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	return stderr.String()
}

// reaches holds a VM against its one interface from both sides: echo and
// heartbeat come from its outside address, and the guest believes to be inside.
func (h *netHost) reaches(name, inside string) {
	h.t.Helper()
	n := h.onlyNetwork(name)
	h.ping(n.IP)
	if _, got := h.beat(n.IP); got != inside {
		h.t.Errorf("the guest of %s believes to be %s, want %s", name, got, inside)
	}
}

func (h *netHost) savedNetwork(snapshot string) store.Network {
	h.t.Helper()
	var rows []struct{ Networks []store.Network }
	if err := json.Unmarshal([]byte(h.must("snapshot", "inspect", snapshot)), &rows); err != nil || len(rows) != 1 || len(rows[0].Networks) != 1 {
		h.t.Fatalf("snapshot inspect %s: %v, %+v", snapshot, err, rows)
	}
	return rows[0].Networks[0]
}

func TestRebuiltVMsOnANetwork(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	n := 0
	eachVMM(t, func(t *testing.T, vmm string) {
		n++
		net, other := fmt.Sprintf("lan%d", n), fmt.Sprintf("far%d", n)
		prefix := fmt.Sprintf("10.%d.0.", 80+n)
		h := newNetHost(t, vmm, networktest.Bridge{Name: net, Subnet: prefix + "0/16"}, networktest.Bridge{Name: other, Subnet: fmt.Sprintf("10.%d.0.0/16", 85+n)})
		before := h.traces()
		h.must(append(guestAt("web", net, prefix+"5", prefix+"1"), "--start")...)
		h.reaches("web", prefix+"5")
		h.must("snapshot", "create", "web", "base")
		if s := h.savedNetwork("base"); s.GatewayMAC.IsZero() || s.Name.String() != net || fmt.Sprint(s.IPs) != "["+prefix+"5/16]" || fmt.Sprint(s.Gateways) != "["+prefix+"1]" {
			t.Errorf("the snapshot remembers %+v", s)
		}
		h.besideItsSource(prefix, net)
		h.inItsPlace(prefix, net)
		h.beforeAForeignLease(prefix, net)
		h.tenAtOnce(prefix)
		h.elsewhere(prefix, other)
		h.fromElsewhere(prefix, net)
		h.ofAClone(prefix, net)
		h.ofAFolder(prefix, net)
		h.sameTraces(before)
		h.clean("base")
	})
}

// besideItsSource: what lives keeps its address, whatever is asked for.
func (h *netHost) besideItsSource(prefix, net string) {
	h.t.Helper()
	alone := h.traces()
	if told, want := h.told("vm", "create", "twin", "--from-snapshot", "base"), "fresh on "+net+" (address "+prefix+"5 belongs to VM web "; !strings.Contains(told, want) {
		h.t.Errorf("told %q, want %q", told, want)
	}
	twin, web := h.onlyNetwork("twin"), h.onlyNetwork("web")
	if twin.IP == web.IP || twin.MAC == web.MAC || twin.GuestMAC != web.MAC || twin.Identity != "fresh" {
		h.t.Errorf("twin %+v, web %+v", twin, web)
	}
	h.reaches("twin", prefix+"5")
	h.reaches("web", prefix+"5")
	both := h.traces()
	h.fails(4, "belongs to VM web ", "vm", "create", "thief", "--from-snapshot", "base", "--network", "keep")
	h.sameTraces(both)

	h.publishedEarlier("base", func() { // it may be where the VM is that it names, for that is here
		if told := h.told("vm", "create", "x", "--from-snapshot", "base", "--dry-run"); !strings.Contains(told, "fresh on "+net) {
			h.t.Errorf("told %q", told)
		}
	})

	// A cold boot of the clone: the same mapping, and a guest that is told the
	// same by its command line.
	h.must("vm", "stop", "twin", "--timeout", "1s")
	h.must("vm", "start", "twin")
	if again := h.onlyNetwork("twin"); again.IP != twin.IP || again.MAC != twin.MAC || again.GuestMAC != twin.GuestMAC {
		h.t.Errorf("started again: %+v, was %+v", again, twin)
	}
	h.reaches("twin", prefix+"5")
	h.must("vm", "rm", "-f", "twin")
	h.sameTraces(alone)
}

// inItsPlace: with the source gone the address is kept, and the counter goes on.
func (h *netHost) inItsPlace(prefix, net string) {
	h.t.Helper()
	was := h.onlyNetwork("web")
	last, _ := h.beat(prefix + "5")
	h.must("snapshot", "create", "web", "late")
	h.must("vm", "rm", "-f", "web")
	told := h.told("vm", "create", "web", "--from-snapshot", "late")
	if want := "keep on " + net + " (its address is free)"; !strings.Contains(told, want) {
		h.t.Errorf("told %q, want %q", told, want)
	}
	if now := h.onlyNetwork("web"); now.IP != was.IP || now.MAC != was.MAC || now.Identity != "keep" {
		h.t.Errorf("rebuilt %+v, was %+v", now, was)
	}
	h.reaches("web", prefix+"5")
	if next, _ := h.beat(prefix + "5"); next <= last {
		h.t.Errorf("heartbeat %d after the rebuild, %d before", next, last)
	}
	h.counts("web")
	h.must("vm", "rm", "-f", "web")
	h.must("snapshot", "rm", "late")
}

// beforeAForeignLease: a container that has the address is a holder too.
func (h *netHost) beforeAForeignLease(prefix, net string) {
	h.t.Helper()
	lease := filepath.Join("/var/lib/cni/networks", net, prefix+"5")
	if err := os.WriteFile(lease, []byte("engine-container\r\neth0"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	before := h.traces()
	h.fails(4, "leased by engine-container", "vm", "create", "web", "--from-snapshot", "base", "--network", "keep")
	h.sameTraces(before)
	if told := h.told("vm", "create", "web", "--from-snapshot", "base"); !strings.Contains(told, "fresh on "+net+" (address "+prefix+"5 is leased by engine-container)") {
		h.t.Errorf("told %q", told)
	}
	h.reaches("web", prefix+"5")
	h.must("vm", "rm", "-f", "web")
	h.sameTraces(before)
	if err := os.Remove(lease); err != nil {
		h.t.Fatal(err)
	}
}

func (h *netHost) tenAtOnce(prefix string) {
	h.t.Helper()
	before := h.traces()
	h.fails(2, "cannot have one address", "vm", "create", "c", "--from-snapshot", "base", "--count", "2", "--network", "keep")
	ids := strings.Fields(h.must("vm", "create", "c", "--from-snapshot", "base", "--count", "10"))
	seen := map[string]bool{}
	var list []vmRow
	if err := json.Unmarshal([]byte(h.must("vm", "list", "--format", "json")), &list); err != nil {
		h.t.Fatal(err)
	}
	for _, v := range list {
		seen[v.Networks[0].IP] = true
	}
	if len(ids) != 10 || len(list) != 10 || len(seen) != 10 {
		h.t.Errorf("%d ids, %d VMs, %d addresses", len(ids), len(list), len(seen))
	}
	for _, v := range list {
		h.reaches(v.Name, prefix+"5")
	}
	h.must(append([]string{"vm", "rm", "-f"}, ids...)...)
	h.sameTraces(before)
}

// elsewhere: another network, and none.
func (h *netHost) elsewhere(prefix, other string) {
	h.t.Helper()
	before := h.traces()
	h.must("vm", "create", "far", "--from-snapshot", "base", "--network", "fresh="+other)
	if n := h.onlyNetwork("far"); n.Name != other || n.GuestIPs[0] != prefix+"5" {
		h.t.Errorf("network %+v", n)
	}
	h.reaches("far", prefix+"5")
	h.must("vm", "rm", "-f", "far")
	h.must("vm", "create", "lone", "--from-snapshot", "base", "--network", "none")
	if n := h.onlyNetwork("lone"); n.Name != "none" || n.IP != "" || n.Tap != "tap0" || n.Netns == "" {
		h.t.Errorf("network %+v", n)
	}
	h.counts("lone")
	h.must("vm", "stop", "lone", "--timeout", "1s")
	h.must("vm", "start", "lone")
	h.counts("lone")
	h.must("vm", "rm", "-f", "lone")
	h.sameTraces(before)
	h.fails(3, `network "gone"`, "vm", "create", "x", "--from-snapshot", "base", "--network", "fresh=gone")
	h.fails(2, "2 networks given", "vm", "create", "x", "--from-snapshot", "base", "--network", "none", "--network", "keep")
	h.fails(2, "keep, fresh", "vm", "create", "x", "--from-snapshot", "base", "--network", other)
	h.fails(3, "TAP gone", "vm", "create", "x", "--from-snapshot", "base", "--network", "tap=gone")
	h.sameTraces(before)
}

// fromElsewhere: another store's snapshot says itself on which network it was, and
// says so of a network that is here. It is on none of this host's unless the operator
// says so.
func (h *netHost) fromElsewhere(prefix, net string) {
	h.t.Helper()
	h.must("snapshot", "export", "base", "-o", "layout", "--format", "oci")
	before := h.traces()
	there := &netHost{host: &host{t: h.t, root: filepath.Join(h.t.TempDir(), "other"), run: h.run + "2", work: h.work, env: h.env}}
	there.env = append(slices.Clone(h.env), "COCOON_ROOT_DIR="+there.root, "COCOON_RUN_DIR="+there.run)
	h.t.Cleanup(func() { leaveNothing(there.run) })
	there.must("snapshot", "import", "layout", "--name", "base")
	for _, how := range [][]string{{}, {"--count", "2"}} {
		told := there.told(append([]string{"vm", "create", "x", "--from-snapshot", "base", "--dry-run"}, how...)...)
		if !strings.Contains(told, "_net0: none (the snapshot was imported from ") || !strings.Contains(told, "network "+net+" is what it says itself") {
			h.t.Errorf("%v: told %q", how, told)
		}
	}
	there.must("vm", "create", "x", "--from-snapshot", "base")
	if n := there.onlyNetwork("x"); n.Name != "none" || n.IP != "" {
		h.t.Errorf("network %+v", n)
	}
	there.must("vm", "rm", "-f", "x")
	h.sameTraces(before)
	if told := there.told("vm", "create", "x", "--from-snapshot", "base", "--network", "keep", "--dry-run"); !strings.Contains(told, "keep on "+net+" (asked for)") {
		h.t.Errorf("told %q", told)
	}
	h.publishedEarlier("base", func() {
		if told := h.told("vm", "create", "x", "--from-snapshot", "base", "--dry-run"); !strings.Contains(told, "none (the snapshot came before this was noted") {
			h.t.Errorf("told %q", told)
		}
	})
	if err := os.RemoveAll(filepath.Join(h.work, "layout")); err != nil {
		h.t.Fatal(err)
	}
}

// ofAFolder: the folder of a VMM does not say which address its guest has. The
// operator does, or what its kernel was told.
func (h *netHost) ofAFolder(prefix, net string) {
	h.t.Helper()
	for _, told := range []bool{false, true} {
		create := append(guestAt("web", net, prefix+"77", prefix+"1"), "--start")
		if told {
			create[slices.Index(create, "--cmdline")+1] += " ip=" + prefix + "77::" + prefix + "1:255.255.0.0:web:eth0:off"
		}
		h.must(create...)
		h.reaches("web", prefix+"77")
		h.must("snapshot", "create", "web", "own")
		h.must("snapshot", "export", "own", "-o", "folder", "--format", "ch")
		h.must("snapshot", "import", "folder", "--name", "folder")
		how := "fresh=" + net
		if !told {
			h.refused(6, "does not say which address its guest has", "guest-ip=", "vm", "create", "x", "--from-snapshot", "folder", "--network", how)
			h.refused(2, "guest-ip", "", "vm", "create", "x", "--from-snapshot", "folder", "--network", "none,guest-ip="+prefix+"77")
			how += ",guest-ip=" + prefix + "77/16,guest-gateway=" + prefix + "1"
		}
		if said := h.told("vm", "create", "x", "--from-snapshot", "folder", "--network", how); !strings.Contains(said, "fresh on "+net+" (asked for") || told && !strings.Contains(said, "its kernel was told that it is "+prefix+"77") {
			h.t.Errorf("told %q", said)
		}
		h.reaches("x", prefix+"77")
		h.must("vm", "stop", "x", "--timeout", "1s")
		h.must("vm", "start", "x")
		h.reaches("x", prefix+"77")
		h.must("snapshot", "create", "x", "of-x")
		h.must("vm", "rm", "-f", "x", "web")

		h.must("vm", "create", "x", "--from-snapshot", "folder", "--network", "keep"+strings.TrimPrefix(how, "fresh"))
		if n := h.onlyNetwork("x"); n.IP != prefix+"77" || n.Identity != "keep" {
			h.t.Errorf("kept %+v", n)
		}
		h.reaches("x", prefix+"77")
		h.must("vm", "create", "y", "--from-snapshot", "of-x", "--network", "fresh") // whose snapshots remember it
		h.reaches("y", prefix+"77")
		h.must("vm", "rm", "-f", "x", "y")
		h.must("snapshot", "rm", "own", "of-x", "folder")
		if err := os.RemoveAll(filepath.Join(h.work, "folder")); err != nil {
			h.t.Fatal(err)
		}
	}
}

// publishedEarlier does something while a snapshot is as a program left it that did
// not note where one comes from.
func (h *netHost) publishedEarlier(snapshot string, do func()) {
	h.t.Helper()
	var rows []struct{ Path string }
	if err := json.Unmarshal([]byte(h.must("snapshot", "inspect", snapshot)), &rows); err != nil {
		h.t.Fatal(err)
	}
	meta := filepath.Join(rows[0].Path, "meta.json")
	b, err := os.ReadFile(meta)
	if err == nil {
		err = os.WriteFile(meta, []byte(`{"name":"`+snapshot+`","description":"","labels":{},"protected":false}`), 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	do()
	if err := os.WriteFile(meta, b, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// ofAClone: to keep what a clone had is to keep its outside address.
func (h *netHost) ofAClone(prefix, net string) {
	h.t.Helper()
	h.must("vm", "create", "c", "--from-snapshot", "base", "--network", "fresh")
	was := h.onlyNetwork("c")
	h.must("snapshot", "create", "c", "of-clone")
	h.must("vm", "rm", "-f", "c")
	if told := h.told("vm", "create", "c", "--from-snapshot", "of-clone"); !strings.Contains(told, "keep on "+net) {
		h.t.Errorf("told %q", told)
	}
	if now := h.onlyNetwork("c"); now.IP != was.IP || now.MAC != was.MAC || now.GuestMAC != was.GuestMAC {
		h.t.Errorf("rebuilt %+v, was %+v", now, was)
	}
	h.reaches("c", prefix+"5")
	h.reboot("br-" + net)
	h.must("vm", "start", "c")
	if now := h.onlyNetwork("c"); now.IP != was.IP || now.MAC != was.MAC || now.GuestMAC != was.GuestMAC {
		h.t.Errorf("after a reboot %+v, was %+v", now, was)
	}
	h.reaches("c", prefix+"5")
	h.must("vm", "rm", "-f", "c")
	h.must("snapshot", "rm", "of-clone")
}

package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

func contextOf(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

var cmpNet = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestKeepGivesTheGuestTheOutsideIdentity(t *testing.T) {
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d queue pairs", queues), func(t *testing.T) {
			h := newHost(t, networktest.Bridge{Name: fmt.Sprintf("keep%d", queues), Subnet: fmt.Sprintf("10.%d.0.0/16", 100+queues), MTU: 1450})
			net := fmt.Sprintf("keep%d", queues)
			gw := fmt.Sprintf("10.%d.0.1", 100+queues)
			before := traces(t, h)
			a := attach(t, h, Request{VM: vmID(t, 0), Network: net, QueuePairs: queues})
			g := boot(t, a)
			if a.MTU != 1450 || a.Identity != Keep || len(a.IPs) != 1 {
				t.Errorf("attachment %+v", a)
			}
			ip := a.IPs[0].Addr().String()
			must0(t, ping("", ip))
			must0(t, ping(g.netns, gw))
			serve(t, g.netns, "guest")
			for _, proto := range []string{"tcp", "udp"} {
				if got, err := ask("", proto, ip); err != nil || got != "guest "+gw {
					t.Errorf("host asks guest over %s: %q, %v", proto, got, err)
				}
			}
			seen, err := Observe(t.Context(), *a)
			must0(t, err)
			if want := linkMAC(t, "br-"+net); seen.GatewayMAC != want {
				t.Errorf("observed gateway MAC %q, want that of the bridge, %s", seen.GatewayMAC, want)
			}
			g.halt()

			// Rebuilt after a reboot: same MAC, same address, same peers.
			must0(t, dropNetns(a.Netns))
			b := attach(t, h, a.Request())
			if diff := cmp.Diff(a, b, cmpNet); diff != "" {
				t.Errorf("attached again (-first +second):\n%s", diff)
			}
			g = boot(t, b)
			must0(t, ping("", ip))
			must0(t, ping(g.netns, gw))
			g.halt()
			must0(t, h.Detach(t.Context(), *b))
			must0(t, h.Detach(t.Context(), *b))
			sameTraces(t, h, before)
		})
	}
}

func TestKeepRefusesAnAddressThatAnotherVMHas(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "taken", Subnet: "10.110.0.0/16"})
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "taken", MAC: "02:00:00:00:11:05", IPs: addrs("10.110.0.50")})
	before := traces(t, h)
	for name, r := range map[string]Request{
		"address": {VM: vmID(t, 1), Network: "taken", IPs: addrs("10.110.0.50")},
		"MAC":     {VM: vmID(t, 1), Network: "taken", MAC: strings.ToUpper(a.MAC)},
	} {
		_, err := h.Attach(t.Context(), r)
		fails(t, err, 4, name, a.VM)
		sameTraces(t, h, before)
	}
}

func TestFreshClonesOfOneIdentitySideBySide(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "clones", Subnet: "10.120.0.0/16"}, networktest.Bridge{Name: "other", Subnet: "10.121.0.0/16"})
	before := traces(t, h)
	src := attach(t, h, Request{VM: vmID(t, 0), Network: "clones", MAC: "02:00:00:00:12:05", IPs: addrs("10.120.0.5")})
	must0(t, ping(boot(t, src).netns, "10.120.0.1"))
	inside, err := Observe(t.Context(), *src)
	must0(t, err)

	const clones = 5 // the last is on another network than the snapshot was
	atts := make([]*Attachment, clones)
	guests := make([]*guest, clones)
	for i := range clones {
		net, gw := "clones", "10.120.0.1"
		if i == clones-1 {
			net, gw = "other", "10.121.0.1"
		}
		atts[i] = attach(t, h, Request{VM: vmID(t, i+1), Network: net, Identity: Fresh, Guest: &inside})
		guests[i] = boot(t, atts[i])
		must0(t, guests[i].remember(inside.Gateways[0], inside.GatewayMAC))
		serve(t, guests[i].netns, fmt.Sprintf("clone%d", i))
		must0(t, Announce(*atts[i]))
		if got := atts[i].Inside(); got.MAC != inside.MAC || got.IPs[0] != inside.IPs[0] || got.GatewayMAC != inside.GatewayMAC {
			t.Errorf("clone %d uses %+v inside, want %+v", i, got, inside)
		}
		if err := ping(guests[i].netns, gw); err != nil {
			t.Errorf("clone %d to its gateway: %v", i, err)
		}
		if err := ping(guests[i].netns, "10.120.0.1"); err != nil {
			t.Errorf("clone %d to the gateway that it remembers: %v", i, err)
		}
	}
	serve(t, "", "host")
	for i, a := range atts {
		ip := a.IPs[0].Addr().String()
		if err := ping("", ip); err != nil {
			t.Errorf("host to clone %d: %v", i, err)
		}
		for _, proto := range []string{"tcp", "udp"} {
			if got, err := ask("", proto, ip); err != nil || !strings.HasPrefix(got, fmt.Sprintf("clone%d ", i)) {
				t.Errorf("host to clone %d over %s: %q, %v", i, proto, got, err)
			}
			if got, err := ask(guests[i].netns, proto, "10.120.0.1"); err != nil || !strings.HasSuffix(got, ip) {
				t.Errorf("clone %d to host over %s: %q, %v; want that it is seen as %s", i, proto, got, err, ip)
			}
		}
		peer := (i + 1) % clones
		if got, err := ask(guests[i].netns, "tcp", atts[peer].IPs[0].Addr().String()); err != nil || !strings.HasPrefix(got, fmt.Sprintf("clone%d ", peer)) {
			t.Errorf("clone %d to clone %d: %q, %v", i, peer, got, err)
		}
	}
	must0(t, ping("", "10.120.0.5")) // the source goes on

	for i, a := range append(atts, src) {
		if i < clones {
			guests[i].halt()
		}
		must0(t, h.Detach(t.Context(), *a))
	}
	sameTraces(t, h, before)
}

func TestFreshWithoutARememberedGatewayMACTellsTheGuest(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "nomac", Subnet: "10.122.0.0/16"})
	in := Guest{MAC: "02:00:00:00:12:09", IPs: prefixes("192.168.7.9/24"), Gateways: addrs("192.168.7.1")}
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "nomac", Identity: Fresh, Guest: &in})
	g := boot(t, a)
	must0(t, Announce(*a))
	must0(t, ping(g.netns, "10.122.0.1"))
	must0(t, ping(g.netns, "192.168.7.1"))
	must0(t, ping("", a.IPs[0].Addr().String()))
	g.halt()

	must0(t, dropNetns(a.Netns)) // the host was rebooted
	b := attach(t, h, a.Request())
	if diff := cmp.Diff(a, b, cmpNet); diff != "" {
		t.Errorf("attached again (-first +second):\n%s", diff)
	}
	g = boot(t, b)
	must0(t, g.remember(in.Gateways[0], a.Guest.GatewayMAC))
	must0(t, ping(g.netns, "10.122.0.1"))
	must0(t, ping("", b.IPs[0].Addr().String()))
}

func TestFreshThatIsGivenTheOldAddressAgain(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "same", Subnet: "10.123.0.0/16"})
	in := Guest{MAC: "02:00:00:00:12:0a", IPs: prefixes("10.123.0.5/16"), Gateways: addrs("10.123.0.1"), GatewayMAC: "02:aa:00:00:00:01"}
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "same", Identity: Fresh, Guest: &in, IPs: addrs("10.123.0.5")})
	g := boot(t, a)
	must0(t, g.remember(in.Gateways[0], in.GatewayMAC))
	serve(t, g.netns, "guest")
	if got, err := ask("", "tcp", "10.123.0.5"); err != nil || got != "guest 10.123.0.1" {
		t.Errorf("host asks guest: %q, %v", got, err)
	}
	must0(t, ping(g.netns, "10.123.0.1"))
}

func TestFreshMapsIPv6Too(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "six", Subnet: "10.124.0.0/16", Subnet6: "fd00:124::/64"})
	in := Guest{
		MAC: "02:00:00:00:12:0b", IPs: prefixes("10.9.9.5/24", "fd00:9::5/64"),
		Gateways: addrs("10.9.9.1", "fd00:9::1"), GatewayMAC: "02:aa:00:00:00:09",
	}
	for i, again := range [][]netip.Addr{nil, nil, addrs("10.124.0.99", "fd00:124::99")} {
		r := Request{VM: vmID(t, i), Network: "six", Identity: Fresh, Guest: &in, IPs: again}
		if again != nil { // the very addresses that the guest remembers
			r.Guest = &Guest{MAC: in.MAC, IPs: prefixes("10.124.0.99/16", "fd00:124::99/64"), Gateways: addrs("10.124.0.1", "fd00:124::1"), GatewayMAC: in.GatewayMAC}
		}
		a := attach(t, h, r)
		g := boot(t, a)
		must0(t, Announce(*a))
		serve(t, g.netns, "guest")
		for _, p := range a.IPs {
			must0(t, ping("", p.Addr().String())) // also waits for the address of the bridge
			if got, err := ask("", "tcp", p.Addr().String()); err != nil || !strings.HasPrefix(got, "guest ") {
				t.Errorf("host asks clone %d at %s: %q, %v", i, p, got, err)
			}
		}
		for _, gw := range []string{"10.124.0.1", "fd00:124::1", r.Guest.Gateways[1].String()} {
			if err := ping(g.netns, gw); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAttachCorrectsWhatTheHostRemembersOfAnEarlierHolder(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "stale", Subnet: "10.129.0.0/16"})
	r := Request{VM: vmID(t, 0), Network: "stale", IPs: addrs("10.129.0.5")}
	boot(t, attach(t, h, Request{VM: vmID(t, 1), Network: "stale"})) // a bridge without ports forgets all
	attach(t, h, r)
	bridge, err := netlink.LinkByName("br-stale")
	must0(t, err)
	wrong := &netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: r.IPs[0].AsSlice(), HardwareAddr: randomMAC(), State: netlink.NUD_REACHABLE}
	must0(t, netlink.NeighSet(wrong))
	a := attach(t, h, r)
	got := ""
	for end := time.Now().Add(exchangeTime); got != a.MAC && time.Now().Before(end); time.Sleep(time.Millisecond) {
		list, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
		must0(t, err)
		for _, n := range list {
			if n.IP.Equal(wrong.IP) {
				got = n.HardwareAddr.String()
			}
		}
	}
	if got != a.MAC {
		t.Errorf("the host takes %s for %s, want %s", got, r.IPs[0], a.MAC)
	}
}

func TestTenClonesAttachAtOnce(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "ten", Subnet: "10.125.0.0/16"})
	before := traces(t, h)
	in := Guest{MAC: "02:00:00:00:12:0c", IPs: prefixes("10.125.0.200/16"), Gateways: addrs("10.125.0.1"), GatewayMAC: "02:aa:00:00:00:01"}
	atts := make([]*Attachment, 10)
	var wg sync.WaitGroup
	for i := range atts {
		wg.Go(func() {
			a, err := h.Attach(t.Context(), Request{VM: vmID(t, i), Network: "ten", Identity: Fresh, Guest: &in})
			if err != nil {
				t.Error(err)
			}
			atts[i] = a
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, a := range atts {
		g := boot(t, a)
		if err := ping("", a.IPs[0].Addr().String()); err != nil {
			t.Errorf("clone %d: %v", i, err)
		}
		g.halt()
	}
	for _, a := range atts {
		wg.Go(func() {
			if err := h.Detach(t.Context(), *a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sameTraces(t, h, before)
}

func TestInterfacesOfOneVMShareItsNetns(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "nica", Subnet: "10.126.0.0/16"}, networktest.Bridge{Name: "nicb", Subnet: "10.127.0.0/16"})
	before := traces(t, h)
	a := attach(t, h, Request{VM: vmID(t, 0), Index: 0, Network: "nica"})
	b := attach(t, h, Request{VM: vmID(t, 0), Index: 1, Network: "nicb"})
	if a.Netns != b.Netns || a.Tap == b.Tap || a.Ifname == b.Ifname {
		t.Fatalf("first %+v, second %+v", a, b)
	}
	must0(t, h.Detach(t.Context(), *a))
	boot(t, b)
	must0(t, ping("", b.IPs[0].Addr().String()))
	must0(t, h.Detach(t.Context(), *b))
	sameTraces(t, h, before)
}

func TestAttachmentSurvivesJSON(t *testing.T) {
	a := Attachment{
		VM: "0123456789ab", Network: "n", IPs: prefixes("10.1.2.3/16", "fd00::1/64"), Gateways: addrs("10.1.0.1"), MTU: 1500, Identity: Fresh,
		Guest: &Guest{MAC: "02:00:00:00:00:01", IPs: prefixes("10.0.0.5/24"), Gateways: addrs("10.0.0.1"), GatewayMAC: "02:00:00:00:00:02"},
	}
	b, err := json.Marshal(a)
	must0(t, err)
	var back Attachment
	must0(t, json.Unmarshal(b, &back))
	if diff := cmp.Diff(a, back, cmpNet); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStartRunsACommandInTheNetns(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "start", Subnet: "10.128.0.0/16"})
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "start"})
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "cat", "/proc/self/net/dev")
	cmd.Stdout = &out
	must0(t, Start(a.Netns, cmd))
	must0(t, cmd.Wait())
	if !strings.Contains(out.String(), a.Tap+":") {
		t.Errorf("the child sees:\n%s", out.String())
	}
}

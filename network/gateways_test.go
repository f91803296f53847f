package network

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestAGuestHearsOfItsGatewaysAnew: it remembers their MAC of before, which
// nobody has any more.
func TestAGuestHearsOfItsGatewaysAnew(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "anew", Subnet: "10.138.0.0/16", Subnet6: "fd00:138::/64"})
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "anew"})
	g := boot(t, a)
	for _, gw := range a.Gateways {
		must0(t, ping(g.netns, gw.String())) // also waits for the address of the bridge
		must0(t, g.believe(gw, "02:00:00:00:00:99", netlink.NUD_REACHABLE))
	}
	if len(a.Gateways) != 2 {
		t.Fatalf("gateways %v, want one of each family", a.Gateways)
	}
	must0(t, TellGateways(t.Context(), *a))
	want := linkMAC(t, "br-anew")
	for _, gw := range a.Gateways {
		end := time.Now().Add(networktest.Patience)
		for g.believes(t, gw) != want && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		if got := g.believes(t, gw); got != want {
			t.Errorf("the guest believes that %s has %s, it is %s", gw, got, want)
		}
		must0(t, ping(g.netns, gw.String()))
	}
}

// TestASilentGatewayIsLeftToTheGuest and is no error; nor is a guest without any.
func TestASilentGatewayIsLeftToTheGuest(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "silent", Subnet: "10.139.0.0/16"})
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "silent"})
	a.Gateways = addrs("10.139.0.200", "fd00::1")
	must0(t, TellGateways(t.Context(), *a))
	a.Gateways = nil
	must0(t, TellGateways(t.Context(), *a))
}

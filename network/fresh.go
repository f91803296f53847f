package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// mapping is one address of the guest and the one seen by the network.
type mapping struct{ inside, outside netip.Addr }

// translate routes between the outside device and the TAP. The TAP has the MAC of
// the guest's old gateway and answers ARP for everything beyond it, so what the
// guest remembers stays valid; NAT maps its addresses.
func translate(a *Attachment, out, tap netlink.Link) error {
	pairs, err := pair(a)
	if err != nil {
		return err
	}
	gwMAC := randomMAC()
	if a.Guest.GatewayMAC != "" {
		if gwMAC, err = parseMAC(a.Guest.GatewayMAC); err != nil {
			return err
		}
	}
	g := *a.Guest
	g.GatewayMAC = gwMAC.String()
	a.Guest = &g
	if err := netlink.LinkSetHardwareAddr(tap, gwMAC); err != nil {
		return fmt.Errorf("set MAC of TAP %s: %w", a.Tap, err)
	}
	if err := forward(a, pairs); err != nil {
		return err
	}
	for _, l := range []netlink.Link{out, tap} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	guestMAC, err := parseMAC(g.MAC)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if err := routeInside(p, guestMAC, out, tap); err != nil {
			return err
		}
	}
	gateways, err := playGateways(a, out)
	if err != nil {
		return err
	}
	return nat(a.Ifname, a.Tap, pairs, gateways)
}

// pair assigns each remembered address a new one of its family, in order.
func pair(a *Attachment) ([]mapping, error) {
	var out []mapping
	used := map[netip.Addr]bool{}
next:
	for _, g := range a.Guest.IPs {
		inside := g.Addr()
		if inside.IsLinkLocalUnicast() {
			continue // means nothing beyond the TAP
		}
		for _, o := range a.IPs {
			if o.Addr().Is4() == inside.Is4() && !used[o.Addr()] {
				used[o.Addr()] = true
				out = append(out, mapping{inside, o.Addr()})
				continue next
			}
		}
		return nil, failure.Hint(failure.New(failure.Incompatible, "the guest remembers %s, but the network gave %v: nothing to map it to", inside, a.IPs),
			"choose a network with as many addresses of that family")
	}
	return out, nil
}

// forward enables routing and proxy ARP. proxy_delay is 0 because the kernel
// otherwise waits up to 0.8 s before each answer.
func forward(a *Attachment, pairs []mapping) error {
	keys := [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/" + a.Tap + "/rp_filter", "0"},
		{"net/ipv4/conf/" + a.Ifname + "/rp_filter", "0"},
		{"net/ipv4/conf/" + a.Tap + "/proxy_arp", "1"},
		{"net/ipv4/neigh/" + a.Tap + "/proxy_delay", "0"},
		{"net/ipv4/conf/" + a.Tap + "/send_redirects", "0"},
	}
	for _, p := range pairs {
		if p.inside.Is6() {
			keys = append(keys, [][2]string{
				{"net/ipv6/conf/" + a.Tap + "/accept_dad", "0"},
				{"net/ipv6/conf/" + a.Tap + "/disable_ipv6", "0"},
				{"net/ipv6/conf/all/forwarding", "1"},
				{"net/ipv6/neigh/" + a.Tap + "/proxy_delay", "0"},
			}...)
		}
		if p.inside == p.outside && p.inside.Is4() {
			keys = append(keys, [][2]string{
				{"net/ipv4/conf/" + a.Tap + "/accept_local", "1"}, // the source stays an address of Ifname
				{"net/ipv4/conf/" + a.Ifname + "/proxy_arp", "1"},
				{"net/ipv4/neigh/" + a.Ifname + "/proxy_delay", "0"},
			}...)
		}
	}
	for _, k := range keys {
		if err := sysctl(k[0], k[1]); err != nil {
			return fmt.Errorf("sysctl %s: %w", k[0], err)
		}
	}
	return nil
}

// routeInside adds the route to the guest's address over the TAP. The neighbour
// entry is fixed, so no ARP request reaches the guest. If the network happened to
// assign the old address again it is no longer local: the netns forwards it like
// any other and answers ARP for it as a proxy.
func routeInside(p mapping, guestMAC net.HardwareAddr, out, tap netlink.Link) error {
	if p.inside == p.outside {
		local := &netlink.Route{LinkIndex: out.Attrs().Index, Dst: host(p.outside), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL}
		if p.outside.Is4() {
			local.Scope = netlink.SCOPE_HOST
		}
		if err := netlink.RouteDel(local); err != nil {
			return fmt.Errorf("stop answering as %s: %w", p.outside, err)
		}
		if p.outside.Is6() {
			if err := proxyND(p.outside, out); err != nil {
				return err
			}
		}
	}
	route := &netlink.Route{LinkIndex: tap.Attrs().Index, Dst: host(p.inside), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to the guest: %w", p.inside, err)
	}
	neigh := &netlink.Neigh{
		LinkIndex: tap.Attrs().Index, IP: p.inside.AsSlice(), HardwareAddr: guestMAC,
		State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
	}
	if err := netlink.NeighSet(neigh); err != nil {
		return fmt.Errorf("set neighbour %s: %w", p.inside, err)
	}
	return nil
}

// playGateways maps the old gateways to the new ones, from which proxy ARP on the
// TAP also follows.
func playGateways(a *Attachment, out netlink.Link) ([]mapping, error) {
	var pairs []mapping
	for _, old := range a.Guest.Gateways {
		for _, gw := range a.Gateways {
			if gw.Is4() != old.Is4() {
				continue
			}
			if gw != old {
				pairs = append(pairs, mapping{inside: old, outside: gw})
				// Proxy ARP answers only for addresses routed to another device.
				via := &netlink.Route{LinkIndex: out.Attrs().Index, Dst: host(old), Gw: gw.AsSlice()}
				if err := netlink.RouteReplace(via); err != nil {
					return nil, fmt.Errorf("route the old gateway %s to %s: %w", old, gw, err)
				}
			}
			break
		}
	}
	return pairs, nil
}

// proxyND answers neighbour solicitations for ip at a device; unlike with ARP
// the kernel wants each address named.
func proxyND(ip netip.Addr, at netlink.Link) error {
	proxy := &netlink.Neigh{LinkIndex: at.Attrs().Index, IP: ip.AsSlice(), Flags: netlink.NTF_PROXY, Family: unix.AF_INET6}
	if err := netlink.NeighSet(proxy); err != nil {
		return fmt.Errorf("answer for %s on %s: %w", ip, at.Attrs().Name, err)
	}
	return sysctl("net/ipv6/conf/"+at.Attrs().Name+"/proxy_ndp", "1")
}

func host(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

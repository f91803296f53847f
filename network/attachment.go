package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// The networks that need no conflist.
const (
	None      = "none"      // no interface
	Tap       = "tap"       // a TAP of the operator, in the netns of the host
	Unplugged = "unplugged" // an unconnected TAP in the VM's netns
)

// Identity says which MAC and addresses the guest uses.
type Identity string

// The identities; the zero value of a request is Keep.
const (
	Keep  Identity = "keep"  // those of the outside device
	Fresh Identity = "fresh" // those in its memory, mapped by NAT
)

// MaxInterfaces is how many interfaces a VM may have.
const MaxInterfaces = 16

// maxQueuePairs is the limit of the kernel's TAP driver (MAX_TAP_QUEUES).
const maxQueuePairs = 256

// Guest is the guest's own view of one interface.
type Guest struct {
	MAC        string         `json:"mac"`
	IPs        []netip.Prefix `json:"ips"`
	Gateways   []netip.Addr   `json:"gateways,omitempty"`
	GatewayMAC string         `json:"gatewayMac,omitempty"` // of the first IPv4 gateway
}

// Request asks for one attachment.
type Request struct {
	VM         string       `json:"vm"`            // id, at least 12 lower-case hex digits
	Index      int          `json:"index"`         // of the interface in the VM, from 0
	Network    string       `json:"network"`       // name of a conflist, None (also ""), Tap or Unplugged
	Tap        string       `json:"tap,omitempty"` // with Network Tap: its name
	MAC        string       `json:"mac,omitempty"` // requested outside, "" = any
	IPs        []netip.Addr `json:"ips,omitempty"` // requested outside, empty = any
	MTU        int          `json:"mtu,omitempty"` // bytes that the guest sends at most, 0 = as the network
	QueuePairs int          `json:"queuePairs,omitempty"`
	Identity   Identity     `json:"identity,omitempty"`
	Guest      *Guest       `json:"guest,omitempty"` // with Fresh: what the guest remembers
}

// Attachment is one interface of a VM as it was made: what the VM's record keeps
// and Detach expects.
type Attachment struct {
	VM         string         `json:"vm"`
	Index      int            `json:"index"`
	Network    string         `json:"network"`
	Conflist   string         `json:"conflist,omitempty"` // path
	Netns      string         `json:"netns,omitempty"`    // path, "" = that of the host
	Ifname     string         `json:"ifname,omitempty"`   // outside device, in Netns
	Tap        string         `json:"tap,omitempty"`      // in Netns
	MAC        string         `json:"mac,omitempty"`      // outside
	IPs        []netip.Prefix `json:"ips,omitempty"`      // outside
	Gateways   []netip.Addr   `json:"gateways,omitempty"` // outside
	MTU        int            `json:"mtu,omitempty"`      // bytes
	QueuePairs int            `json:"queuePairs,omitempty"`
	Identity   Identity       `json:"identity,omitempty"`
	Guest      *Guest         `json:"guest,omitempty"` // with Fresh only
}

// Inside is the identity that the guest itself uses: the MAC is for the VMM's
// command line, the addresses are for the guest's configuration.
func (a Attachment) Inside() Guest {
	if a.Guest != nil {
		return *a.Guest
	}
	return Guest{MAC: a.MAC, IPs: a.IPs, Gateways: a.Gateways}
}

// Request asks for the same attachment again, with its MAC and addresses, for
// instance after a reboot of the host.
func (a Attachment) Request() Request {
	r := Request{
		VM: a.VM, Index: a.Index, Network: a.Network, MAC: a.MAC,
		QueuePairs: a.QueuePairs, Identity: a.Identity, Guest: a.Guest,
	}
	if a.Network == Tap {
		r.Tap = a.Tap
	}
	for _, p := range a.IPs {
		r.IPs = append(r.IPs, p.Addr())
	}
	return r
}

// Wanted is the attachment that r asks for, before it is made by Attach.
func Wanted(r Request) Attachment {
	a := Attachment{
		VM: r.VM, Index: r.Index, Network: r.Network, Tap: r.Tap, MAC: r.MAC, MTU: r.MTU,
		QueuePairs: r.QueuePairs, Identity: r.Identity, Guest: r.Guest,
	}
	for _, ip := range r.IPs {
		a.IPs = append(a.IPs, netip.PrefixFrom(ip, ip.BitLen()))
	}
	return a
}

func (r Request) check() error {
	bad := func(format string, args ...any) error {
		return failure.New(failure.Usage, "network %s: %s", r.Network, fmt.Sprintf(format, args...))
	}
	switch {
	case !isID(r.VM):
		return bad("VM id %q is not at least %d lower-case hex digits", r.VM, idDigits)
	case r.Index < 0 || r.Index >= MaxInterfaces:
		return bad("interface %d: a VM has at most %d", r.Index, MaxInterfaces)
	case r.QueuePairs < 0 || r.QueuePairs > maxQueuePairs:
		return bad("%d queue pairs: 1 to %d are possible", r.QueuePairs, maxQueuePairs)
	case (r.Network == Tap) != (r.Tap != ""):
		return bad("the name of a TAP belongs to network %s alone", Tap)
	case r.Tap != "" && !spelling.Device(r.Tap):
		return bad("%q is no name of a device", r.Tap)
	}
	if r.MAC != "" {
		if _, err := parseMAC(r.MAC); err != nil {
			return bad("%v", err)
		}
	}
	if slices.ContainsFunc(r.IPs, func(ip netip.Addr) bool { return !ip.IsValid() || ip.Zone() != "" }) {
		return bad("wanted addresses %v are not valid", r.IPs)
	}
	return r.checkIdentity(bad)
}

func (r Request) checkIdentity(bad func(string, ...any) error) error {
	switch r.Identity {
	case "", Keep:
		if r.Guest != nil {
			return bad("identity %s takes no remembered identity", Keep)
		}
		return nil
	case Fresh:
	default:
		return bad("identity %q is neither %s nor %s", r.Identity, Keep, Fresh)
	}
	g := r.Guest
	switch {
	case r.Network == Tap || r.Network == Unplugged:
		return bad("identity %s needs a CNI network", Fresh)
	case g == nil || len(g.IPs) == 0:
		return failure.Hint(bad("identity %s needs the address that the guest remembers", Fresh), "use keep, or none and configure the guest")
	case slices.ContainsFunc(g.IPs, func(p netip.Prefix) bool { return !p.IsValid() }):
		return bad("remembered addresses %v are not valid", g.IPs)
	case slices.ContainsFunc(g.Gateways, func(ip netip.Addr) bool { return !ip.IsValid() }):
		return bad("remembered gateways %v are not valid", g.Gateways)
	}
	if _, err := parseMAC(g.MAC); err != nil {
		return bad("remembered: %v", err)
	}
	if g.GatewayMAC != "" {
		if _, err := parseMAC(g.GatewayMAC); err != nil {
			return bad("remembered gateway: %v", err)
		}
	}
	return nil
}

// parseMAC refuses MACs that no interface may have: other lengths than 6 bytes,
// multicast, zero.
func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || !ofInterface(mac) {
		return nil, fmt.Errorf("%q is not the MAC of an interface", s)
	}
	return mac, nil
}

func ofInterface(mac net.HardwareAddr) bool { return len(mac) == 6 && mac[0]&1 == 0 && !isZero(mac) }

func isZero(mac net.HardwareAddr) bool {
	return !slices.ContainsFunc(mac, func(b byte) bool { return b != 0 })
}

package vm

import (
	"cmp"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/network"
)

// A guest cannot ask a bridge for its address, so its command line contains it:
// record and snapshots keep the placeholders, and each cold boot fills in the
// current values of the VM's first interface with an address. A guest behind NAT
// gets the address that it remembers.

// placeholder as a command line has it. Other text in braces is the guest's.
var placeholder = regexp.MustCompile(`\{(ip|prefix|netmask|gateway|mac|hostname)\}`)

// facts are the values of placeholders, and whether each is known.
type facts map[string]string

// commandLine is the kernel's command line of a cold boot. Before the interfaces
// are attached their placeholders stay, if there is an interface to fill them.
func (rec *Record) commandLine() (string, error) {
	facts, attached := rec.facts()
	var missing string
	text := placeholder.ReplaceAllStringFunc(rec.Cmdline, func(p string) string {
		name := strings.Trim(p, "{}")
		value := facts[name]
		switch {
		case value != "":
			return value
		case !attached:
			return p
		}
		missing = cmp.Or(missing, p)
		return ""
	})
	if missing != "" {
		return "", failure.Hint(failure.New(failure.Usage, "the command line needs %s, and no interface of VM %s has one", missing, rec.Name),
			hint.Networks.Of()+" NAME gives it an address where the network has IPAM; or write the address itself")
	}
	return text, nil
}

// facts of the first interface that has an IPv4 address; false if one may still
// get it.
func (rec *Record) facts() (facts, bool) {
	f := facts{"hostname": rec.Name}
	attached := true
	for _, n := range rec.Networks {
		if !n.attached() { // its address is only requested so far, without a gateway
			attached = false
			continue
		}
		inside := n.Inside()
		i := slices.IndexFunc(inside.IPs, func(p netip.Prefix) bool { return p.Addr().Is4() })
		if i < 0 {
			continue
		}
		ip := inside.IPs[i]
		f["ip"], f["prefix"], f["mac"] = ip.Addr().String(), ip.String(), inside.MAC
		f["netmask"] = net.IP(net.CIDRMask(ip.Bits(), 32)).String()
		if g := slices.IndexFunc(inside.Gateways, netip.Addr.Is4); g >= 0 {
			f["gateway"] = inside.Gateways[g].String()
		}
		return f, true
	}
	return f, attached
}

// attached reports whether an interface has everything it will have.
func (n Network) attached() bool {
	return n.Netns != "" || slices.Contains([]string{"", network.None, network.Tap, network.Unplugged}, n.Attachment.Network)
}

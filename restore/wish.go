package restore

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
)

// The ways in which an interface of the new VM may be on a network.
const (
	Keep  = "keep"  // MAC and addresses of the snapshot
	Fresh = "fresh" // new ones outside, mapped to those that the guest remembers
	None  = "none"  // the guest keeps its interface, unconnected
	Tap   = "tap"   // a TAP that the operator made
	Join  = "join"  // as an interface of a new VM: a guest that boots gets its address
)

// Wish is the caller's request for an interface; the zero value leaves it to the
// plan: keep if the address is free, else fresh.
type Wish struct {
	How     string // "", Keep, Fresh, None, Tap or, of a VM that boots, Join
	Network string // with Keep and Fresh: another network than the snapshot was on
	Tap     string // with Tap: its name
	// With Keep and Fresh: the guest's own address, if the snapshot does not
	// record it or is out of date. One address per family.
	GuestIPs      []netip.Prefix
	GuestGateways []netip.Addr
	Wanted        network.Request // with Join: the network, and what is requested of it
}

// attaches: the wish needs an interface.
func (w Wish) attaches() bool { return w.How != "" && w.How != None }

// wishFor returns the wish for interface i: a single one applies to all.
func wishFor(wishes []Wish, i int) Wish {
	if len(wishes) == 0 {
		return Wish{}
	}
	return wishes[min(i, len(wishes)-1)]
}

// ParseWish reads keep, keep=CNI-NAME, fresh, fresh=CNI-NAME, none or tap=NAME,
// and after the first four guest-ip=A[/PREFIX] and guest-gateway=G, once per
// family.
func ParseWish(s string) (Wish, error) {
	what, options, _ := strings.Cut(s, ",")
	how, name, named := strings.Cut(what, "=")
	w := Wish{How: how}
	onNetwork := how == Keep || how == Fresh
	switch {
	case !named && (onNetwork || how == None):
	case name != "" && how == Tap:
		w.Tap = name
	case name != "" && onNetwork:
		w.Network = name
	default:
		return Wish{}, failure.New(failure.Usage, "network %q with a snapshot: keep, fresh, keep=CNI-NAME, fresh=CNI-NAME, none or tap=NAME", s)
	}
	if options == "" && !strings.Contains(s, ",") {
		return w, nil
	}
	if !onNetwork {
		return Wish{}, failure.New(failure.Usage, "network %q: guest-ip= and guest-gateway= go with keep and fresh", s)
	}
	for _, o := range strings.Split(options, ",") {
		if err := w.option(o); err != nil {
			return Wish{}, err
		}
	}
	if len(w.GuestGateways) > 0 && len(w.GuestIPs) == 0 {
		return Wish{}, failure.New(failure.Usage, "network %q: a guest-gateway= needs a guest-ip=", s)
	}
	return w, nil
}

func (w *Wish) option(o string) error {
	key, value, _ := strings.Cut(o, "=")
	bad := func(err string) error {
		return failure.New(failure.Usage, "network option %q: %s", o, err)
	}
	switch key {
	case "guest-ip":
		p, err := netip.ParsePrefix(value)
		if a, aerr := netip.ParseAddr(value); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return bad("the address of the guest, as 10.1.2.3/24")
		}
		if slices.ContainsFunc(w.GuestIPs, func(q netip.Prefix) bool { return q.Addr().Is4() == p.Addr().Is4() }) {
			return bad("a second address of that family")
		}
		w.GuestIPs = append(w.GuestIPs, p)
	case "guest-gateway":
		a, err := netip.ParseAddr(value)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return bad("the address of the guest's gateway, as 10.1.2.1")
		}
		if slices.ContainsFunc(w.GuestGateways, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return bad("a second gateway of that family")
		}
		w.GuestGateways = append(w.GuestGateways, a)
	default:
		return bad("guest-ip=A/PREFIX or guest-gateway=G")
	}
	return nil
}

func equals(name string) string {
	if name == "" {
		return ""
	}
	return "=" + name
}

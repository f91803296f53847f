package restore

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/network"
)

// The ways in which an interface of the new VM may be on a network.
const (
	Keep  = "keep"  // MAC and addresses of the snapshot
	Fresh = "fresh" // new ones outside, mapped to those that the guest remembers
	None  = "none"  // the guest keeps its interface, which leads nowhere
	Tap   = "tap"   // a TAP that the operator made
)

// Wish is what the caller wants of an interface; the zero value leaves it to
// the plan: keep where nobody has the address, else fresh.
type Wish struct {
	How     string // "", Keep, Fresh, None or Tap
	Network string // with Keep and Fresh: another network than the snapshot was on
	Tap     string // with Tap: its name
}

// NetworkPlan is how one interface will be attached, and why so.
type NetworkPlan struct {
	ID      string         `json:"id"` // the VMM's, e.g. _net0
	How     string         `json:"how"`
	Network string         `json:"network,omitempty"`
	Tap     string         `json:"tap,omitempty"`
	MAC     string         `json:"mac"` // the guest's
	IPs     []netip.Prefix `json:"ips,omitempty"`
	Why     string         `json:"why"`

	request network.Request
}

// String is the choice in a line.
func (n NetworkPlan) String() string {
	where := ""
	if on := n.Network + n.Tap; on != "" { // never both
		where = " on " + on
	}
	return fmt.Sprintf("interface %s: %s%s (%s)", n.ID, n.How, where, n.Why)
}

// planNetworks decides for each interface of the snapshot. One wish is for all
// of them, more are one each, in order.
func (e *Engine) planNetworks(p *Plan, r Request) error {
	src := p.source.Interfaces()
	if len(r.Networks) > 1 && len(r.Networks) != len(src) {
		return failure.New(failure.Usage, "%d networks given, snapshot %s has %d interfaces", len(r.Networks), p.SnapshotID, len(src))
	}
	taps := 0
	for i, n := range src {
		var w Wish
		if len(r.Networks) > 0 {
			w = r.Networks[min(i, len(r.Networks)-1)]
		}
		c := choice{Engine: e, plan: p, source: n, guest: n.Remembered, wish: w, clones: r.Clones}
		np, err := c.decide()
		if err != nil {
			return fmt.Errorf("interface %s of snapshot %s: %w", n.ID, p.SnapshotID, err)
		}
		if np.request.Network == network.Tap {
			taps++
		}
		np.ID, np.Network, np.Tap, np.MAC = n.ID, np.request.Network, np.request.Tap, c.guest.MAC
		if np.How == None || np.How == Tap {
			np.Network = ""
		}
		if np.How != None {
			np.IPs = c.guest.IPs
		}
		p.Networks = append(p.Networks, *np)
	}
	if taps > 0 && taps < len(src) {
		return failure.New(failure.Usage, "snapshot %s: TAPs of the host and other networks do not mix: the VMM can be in one netns only", p.SnapshotID)
	}
	return nil
}

// choice is the decision about one interface.
type choice struct {
	*Engine
	plan   *Plan
	source vm.Interface
	guest  network.Guest
	wish   Wish
	clones int
}

func (c choice) decide() (*NetworkPlan, error) {
	switch c.wish.How {
	case None:
		return c.none("asked for"), nil
	case Tap:
		return c.tap(c.wish.Tap, "asked for")
	case Keep:
		return c.keep("asked for")
	case Fresh:
		return c.fresh("asked for")
	case "":
		return c.byDefault()
	}
	return nil, failure.New(failure.Usage, "unknown choice %q: keep, fresh, none or tap", c.wish.How)
}

func (c choice) byDefault() (*NetworkPlan, error) {
	switch {
	case c.source.Network == network.None || c.source.Network == network.Unplugged:
		return c.none("as the snapshot was"), nil
	case !c.ours():
		return c.none(fmt.Sprintf("the snapshot %s, and %s is what it says itself; keep takes that, keep=NAME, fresh=NAME or tap=NAME another",
			c.plan.snapshot.Meta.Origin, c.source.Where())), nil
	case c.source.Network == network.Tap:
		return c.keep("its TAP is the host's")
	case c.clones > 1:
		return c.fresh("as a clone")
	}
	holder, err := c.VMs.AddressHolder(c.kept())
	if err != nil {
		return nil, c.elsewhere(err)
	}
	if holder != "" {
		return c.fresh(holder)
	}
	return c.keep("nobody has its address")
}

// ours: the snapshot may say on which of this host's networks it is. One that came
// from elsewhere may not. Earlier programs did not note where one came from: it may
// be on the network that the VM which it names, one of this store, has itself.
func (c choice) ours() bool {
	sn := c.plan.snapshot
	if sn.Meta.Origin != nil || sn.Foreign() {
		return sn.CapturedHere()
	}
	return c.VMs.HasInterface(sn.Spec.VM.ID, vm.Network{ID: c.source.ID, Attachment: c.source.Attachment})
}

// base is what each request says of the device that the guest has.
func (c choice) base(net string) network.Request {
	return network.Request{Network: net, MTU: c.source.SavedMTU, QueuePairs: c.source.QueuePairs}
}

func (c choice) none(why string) *NetworkPlan {
	r := c.base(network.Unplugged)
	r.MAC = c.guest.MAC
	return &NetworkPlan{How: None, Why: why, request: r}
}

func (c choice) tap(name, why string) (*NetworkPlan, error) {
	if c.clones > 1 {
		return nil, failure.Hint(failure.New(failure.Incompatible, "TAP %s serves one VM, not %d", name, c.clones), "use --network none, or clone one by one")
	}
	r := c.base(network.Tap)
	r.Tap, r.MAC = name, c.guest.MAC
	return &NetworkPlan{How: Tap, Why: why, request: r}, nil
}

// kept asks for what the network saw of the source: of one with a fresh identity
// that is not what its guest remembers.
func (c choice) kept() network.Request {
	r := c.base(c.source.Network)
	if c.wish.Network != "" {
		r.Network = c.wish.Network
	}
	r.MAC = c.source.MAC
	for _, p := range c.source.IPs {
		r.IPs = append(r.IPs, p.Addr())
	}
	if c.source.Identity == network.Fresh {
		r.Identity, r.Guest = network.Fresh, &c.guest
	}
	return r
}

func (c choice) keep(why string) (*NetworkPlan, error) {
	switch {
	case c.source.Network == network.Tap && c.wish.Network == "":
		return c.tap(c.source.Tap, why)
	case c.source.Network == network.Unplugged && c.wish.Network == "":
		return c.none("as the snapshot was"), nil
	case c.clones > 1:
		return nil, failure.Hint(failure.New(failure.Usage, "%d clones cannot have one address", c.clones), "use fresh or none")
	}
	r := c.kept()
	holder, err := c.VMs.AddressHolder(r)
	if err != nil {
		return nil, c.elsewhere(err)
	}
	if holder != "" {
		return nil, failure.Hint(failure.New(failure.Conflict, "network %s: %s", r.Network, holder),
			"remove that one, or use --network fresh")
	}
	return &NetworkPlan{How: Keep, Why: why, request: r}, nil
}

func (c choice) fresh(why string) (*NetworkPlan, error) {
	net := c.source.Network
	if c.wish.Network != "" {
		net = c.wish.Network
	}
	if net == network.Tap || net == network.Unplugged || net == network.None {
		return nil, failure.Hint(failure.New(failure.Incompatible, "a fresh identity needs a CNI network; the snapshot was on %s", c.source.Network),
			"use --network none, keep or fresh=CNI-NAME")
	}
	if len(c.guest.IPs) == 0 {
		return nil, failure.Hint(failure.New(failure.Incompatible, "the snapshot does not say which address its guest has, so none can be mapped to it"),
			"use --network none or tap=NAME and configure the guest")
	}
	r := c.base(net)
	r.Identity, r.Guest = network.Fresh, &c.guest
	if err := c.VMs.CheckNetwork(net); err != nil {
		return nil, c.elsewhere(err)
	}
	return &NetworkPlan{How: Fresh, Why: why, request: r}, nil
}

// elsewhere adds the remedy for a snapshot from another host to an error about a
// network that this one does not have.
func (c choice) elsewhere(err error) error {
	hint := "another network: --network fresh=NAME or keep=NAME; or --network none"
	if own := failure.HintOf(err); own != "" {
		hint = own + "; " + hint
	}
	return failure.Hint(err, hint)
}

// wantNetworks puts what the plan decided into the record of the new VM.
func wantNetworks(rec *vm.Record, p *Plan) {
	rec.Networks = []vm.Network{}
	for i, n := range p.Networks {
		n.request.VM, n.request.Index = rec.ID, i
		rec.Networks = append(rec.Networks, vm.Network{ID: n.ID, Attachment: network.Wanted(n.request)})
	}
}

func (r *run) detach(ctx context.Context) error {
	if r.rec == nil {
		return nil
	}
	return r.VMs.Detach(ctx, r.rec.ID)
}

func (r *run) announce(ctx context.Context) error { return r.VMs.AnnounceSaved(ctx, r.rec) }

// ParseWish reads keep, keep=CNI-NAME, fresh, fresh=CNI-NAME, none or tap=NAME.
func ParseWish(s string) (Wish, error) {
	how, name, named := strings.Cut(s, "=")
	w := Wish{How: how}
	switch {
	case !named && (how == Keep || how == Fresh || how == None):
		return w, nil
	case name != "" && how == Tap:
		w.Tap = name
		return w, nil
	case name != "" && (how == Keep || how == Fresh):
		w.Network = name
		return w, nil
	}
	return w, failure.New(failure.Usage, "network %q with a snapshot: keep, fresh, keep=CNI-NAME, fresh=CNI-NAME, none or tap=NAME", s)
}

package restore

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// NetworkPlan says how one interface will be attached, and why.
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

// planNetworks decides for each interface of the snapshot. One wish applies to
// all of them, several are one each, in order.
func (e *Engine) planNetworks(s *subject, r Request) (plans []NetworkPlan, err error) {
	src, id := s.source.Interfaces(), s.snapshot.ID
	if len(src) == 0 && slices.ContainsFunc(r.Networks, Wish.attaches) {
		return nil, failure.New(failure.Usage, "snapshot %s has no interface that could be put on a network", id)
	}
	if len(r.Networks) > 1 && len(r.Networks) != len(src) {
		return nil, failure.New(failure.Usage, "%d networks given, snapshot %s has %d interfaces", len(r.Networks), id, len(src))
	}
	taps := 0
	for i, n := range src {
		w := wishFor(r.Networks, i)
		c := choice{Engine: e, snapshot: s.snapshot, source: n, wish: w, clones: r.Clones}
		told := c.remember(i, len(src), s.config.Payload().Cmdline)
		np, err := c.decide()
		if err != nil {
			return nil, fmt.Errorf("interface %s of snapshot %s: %w", n.ID, id, err)
		}
		if np.request.Network != network.Unplugged && np.request.Network != network.Tap {
			np.Why += told
		}
		if np.request.Network == network.Tap {
			taps++
		}
		np.describe(n.ID, c.guest)
		plans = append(plans, *np)
	}
	if taps > 0 && taps < len(src) {
		return nil, failure.New(failure.Usage, "snapshot %s: TAPs of the host and other networks do not mix: the VMM can be in one netns only", id)
	}
	return plans, nil
}

// describe fills in what is displayed.
func (n *NetworkPlan) describe(id string, g network.Guest) {
	n.ID, n.Network, n.Tap, n.MAC = id, n.request.Network, n.request.Tap, g.MAC
	if n.How == None || n.How == Tap {
		n.Network = ""
	}
	if n.How != None && n.How != Join {
		n.IPs = g.IPs
	}
}

// choice is the decision about one interface.
type choice struct {
	*Engine
	snapshot *store.Snapshot
	source   vm.Interface
	guest    network.Guest // the guest's own view; see remember
	said     bool          // from the operator or its command line, not from the snapshot
	wish     Wish
	clones   int
	self     string // id of the VM, if there is one, and
	index    int    // which of its interfaces this is: its own addresses do not conflict
}

// remember says how the guest's view is known, "" if from the snapshot.
func (c *choice) remember(i, interfaces int, cmdline string) (told string) {
	c.guest = c.source.Remembered
	switch {
	case len(c.wish.GuestIPs) > 0:
		c.guest.IPs, c.guest.Gateways = c.wish.GuestIPs, c.wish.GuestGateways
		if !slices.Equal(c.guest.Gateways, c.source.Remembered.Gateways) {
			c.guest.GatewayMAC = "" // of the one that the snapshot says
		}
		c.said = true
		return ""
	case len(c.guest.IPs) > 0:
		return ""
	}
	ip, gateways, ok := addressOf(cmdline, i, interfaces)
	if !ok {
		return ""
	}
	c.guest.IPs, c.guest.Gateways, c.said = []netip.Prefix{ip}, gateways, true
	return "; its kernel was told that it is " + ip.Addr().String()
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
			c.snapshot.Meta.Origin, c.source.Where())), nil
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
	return c.keep("its address is free")
}

// ours: the snapshot may choose one of this host's networks. One from elsewhere
// may not. Earlier versions did not record the origin: then the snapshot may use
// the network that the VM it names, if it is in this store, has itself.
func (c choice) ours() bool {
	sn := c.snapshot
	if sn.Meta.Origin != nil || sn.Foreign() {
		return sn.CapturedHere()
	}
	return c.VMs.HasInterface(sn.Spec.VM.ID, vm.Network{ID: c.source.ID, Attachment: c.source.Attachment})
}

// base holds what every request says about the guest's device.
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
		return nil, failure.Hint(failure.New(failure.Incompatible, "TAP %s serves one VM, not %d", name, c.clones), "use "+hint.Networks.Of()+" none, or clone one by one")
	}
	r := c.base(network.Tap)
	r.Tap, r.MAC = name, c.guest.MAC
	return &NetworkPlan{How: Tap, Why: why, request: r}, nil
}

// kept requests what the network saw of the source; with a fresh identity that
// differs from what its guest remembers.
func (c choice) kept() network.Request {
	r := c.base(c.source.Network)
	if c.wish.Network != "" {
		r.Network = c.wish.Network
	}
	r.MAC = c.source.MAC
	ips := c.source.IPs
	if c.source.Identity == network.Fresh {
		r.Identity, r.Guest = network.Fresh, &c.guest
	} else if c.said { // the guest uses no other
		ips = c.guest.IPs
	}
	for _, p := range ips {
		r.IPs = append(r.IPs, p.Addr())
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
	if err := c.free(r); err != nil {
		return nil, err
	}
	return &NetworkPlan{How: Keep, Why: why, request: r}, nil
}

// free refuses a MAC or an address that is in use.
func (c choice) free(r network.Request) error {
	r.VM, r.Index = c.self, c.index
	holder, err := c.VMs.AddressHolder(r)
	if err != nil {
		return c.elsewhere(err)
	}
	if holder != "" {
		return failure.Hint(failure.New(failure.Conflict, "network %s: %s", r.Network, holder),
			"remove that one, or use "+hint.Networks.Of()+" fresh")
	}
	return nil
}

func (c choice) fresh(why string) (*NetworkPlan, error) {
	net := c.source.Network
	if c.wish.Network != "" {
		net = c.wish.Network
	}
	if net == network.Tap || net == network.Unplugged || net == network.None {
		return nil, failure.Hint(failure.New(failure.Incompatible, "a fresh identity needs a CNI network; the snapshot was on %s", c.source.Network),
			"use "+hint.Networks.Of()+" none, keep or fresh=CNI-NAME")
	}
	if len(c.guest.IPs) == 0 {
		return nil, failure.Hint(failure.New(failure.Incompatible, "the snapshot does not say which address its guest has, so none can be mapped to it"),
			"say it: "+hint.Networks.Of()+" fresh"+equals(c.wish.Network)+",guest-ip=A/PREFIX,guest-gateway=G; or use "+hint.Networks.Of()+" none or tap=NAME and configure the guest")
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
	remedy := "another network: " + hint.Networks.Of() + " fresh=NAME or keep=NAME; or " + hint.Networks.Of() + " none"
	if own := failure.HintOf(err); own != "" {
		remedy = own + "; " + remedy
	}
	return failure.Hint(err, remedy)
}

// wantNetworks puts the plan's decisions into the record of the new VM.
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

package vm

import (
	"context"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/network"
)

// wanted makes the interfaces of a new VM from the request, each with a MAC. The
// VMM runs in one netns, so a TAP of the host cannot be combined with any other
// kind.
func wanted(id string, requests []network.Request) ([]Network, error) {
	if len(requests) > network.MaxInterfaces {
		return nil, failure.New(failure.Usage, "%d interfaces: a VM has at most %d", len(requests), network.MaxInterfaces)
	}
	out := make([]Network, 0, len(requests))
	taps := 0
	for i, r := range requests {
		if r.MAC == "" {
			r.MAC = fmt.Sprintf("02:%s:%s:%s:%s:%02x", id[0:2], id[2:4], id[4:6], id[6:8], i)
		}
		if r.Network == network.Tap {
			taps++
		}
		r.VM, r.Index = id, i
		out = append(out, Network{fmt.Sprintf("_net%d", i), network.Wanted(r)})
	}
	return out, oneNetns(taps, len(requests))
}

func oneNetns(taps, all int) error {
	if taps > 0 && taps < all {
		return failure.Hint(failure.New(failure.Usage, "a TAP of the host and a network of another kind: the VMM can be in one netns only"),
			"give all interfaces as tap=NAME or none of them")
	}
	return nil
}

// Attach makes the interfaces of a VM that is not running, in order, and fills
// its record. They keep the MAC and addresses in the record; what an earlier
// Attach left of them, whole or broken, is undone first. On error the caller
// decides about those already made.
func (m *Manager) Attach(ctx context.Context, rec *Record) error { return m.attach(ctx, rec, false) }

// AttachSaved is Attach for a guest that continues from its RAM and sends frames
// of its old MTU: a network with a smaller one is failure.Incompatible.
func (m *Manager) AttachSaved(ctx context.Context, rec *Record) error {
	return m.attach(ctx, rec, true)
}

func (m *Manager) attach(ctx context.Context, rec *Record, saved bool) error {
	for i := range rec.Networks {
		n := &rec.Networks[i]
		r := n.Request()
		if saved {
			r.MTU = n.MTU
		}
		a, err := m.o.Network.Attach(ctx, r)
		if err != nil {
			return fmt.Errorf("interface %d: %w", i, err)
		}
		n.Attachment = *a
	}
	return nil
}

// AddressHolder returns the owner of the MAC or an address that r requests, "" if
// none is known.
func (m *Manager) AddressHolder(r network.Request) (string, error) {
	h, err := m.o.Network.Holder(r)
	if err != nil || h.What == "" {
		return "", err
	}
	if h.VM == "" {
		return h.String(), nil
	}
	rec, err := m.read(h.VM)
	if err != nil {
		return h.String() + ", which is being made, or which gc will remove", nil
	}
	return fmt.Sprintf("%s belongs to VM %s (%s)", h.What, rec.Name, rec.ID), nil
}

// HasInterface reports whether a VM of this store has exactly this interface: its
// id, on this network or TAP, with this MAC and these addresses.
func (m *Manager) HasInterface(id string, want Network) bool {
	if !spelling.ID(id) {
		return false
	}
	rec, err := m.read(id)
	return err == nil && slices.ContainsFunc(rec.Networks, func(n Network) bool {
		return n.ID == want.ID && n.Network == want.Network && (n.Network != network.Tap || n.Tap == want.Tap) &&
			sameMAC(n.MAC, want.MAC) && slices.Equal(n.IPs, want.IPs)
	})
}

// CheckNetwork refuses a network that is missing or incomplete on this host.
func (m *Manager) CheckNetwork(name string) error { return m.o.Network.Check(name) }

// Announce announces addresses to the networks, and gateways to guests with a
// fresh identity; call it after each boot and resume.
func (m *Manager) Announce(rec *Record) error {
	for _, n := range rec.Networks {
		if err := network.Announce(n.Attachment); err != nil {
			return err
		}
	}
	return nil
}

// AnnounceSaved is Announce for a guest that continues from its RAM: it also
// announces the current MACs of its gateways.
func (m *Manager) AnnounceSaved(ctx context.Context, rec *Record) error {
	if err := m.Announce(rec); err != nil {
		return err
	}
	for _, n := range rec.Networks {
		if err := network.TellGateways(ctx, n.Attachment); err != nil {
			return err
		}
	}
	return nil
}

// told explains an error of Announce, after which nothing is undone.
func told(rec *Record, err error) error {
	if err != nil {
		return fmt.Errorf("VM %s runs, but its addresses were not announced: %w", rec.Name, err)
	}
	return nil
}

// CannotAttach adds a remedy to the reason why the interfaces of an existing VM
// cannot be made.
func CannotAttach(rec *Record, err error) error {
	if err == nil {
		return nil
	}
	advice := "its interfaces may be elsewhere: " + hint.Wake.Of(rec.Name) + " " + hint.Networks.Of() + " fresh, fresh=NAME, keep=NAME or none"
	if own := failure.HintOf(err); own != "" {
		advice = own + "; " + advice
	}
	return failure.Hint(err, advice)
}

// Detach undoes the interfaces of a VM whose VMM has ended. If there are none,
// that is success.
func (m *Manager) Detach(ctx context.Context, id string) error { return m.o.Network.RemoveVM(ctx, id) }

// netnsOf is where the VMM must run, "" in that of the host.
func netnsOf(rec *Record) string {
	for _, n := range rec.Networks {
		if n.Netns != "" {
			return n.Netns
		}
	}
	return ""
}

// netOptions are those of --net: the MAC is the guest's own, which differs from
// the outside one with a fresh identity.
func netOptions(n Network) []chsnap.Option {
	o := []chsnap.Option{
		chsnap.WordOption("id", n.ID), chsnap.DeviceOption("tap", n.Tap), chsnap.WordOption("mac", n.Inside().MAC),
	}
	if n.MTU > 0 {
		o = append(o, chsnap.NumberOption("mtu", int64(n.MTU)))
	}
	if n.QueuePairs > 1 {
		o = append(o, chsnap.NumberOption("num_queues", 2*int64(n.QueuePairs)))
	}
	return o
}

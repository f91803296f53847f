package capture

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// known is what a VM's record says its guest believes of its interfaces.
func known(rec *vm.Record) []store.Network {
	out := []store.Network{}
	for _, n := range rec.Networks {
		out = append(out, asSaved(n, n.Inside()))
	}
	return out
}

// observe is known with the MAC of each gateway, which a clone's TAP takes so
// that what the guest remembers stays true. It asks on the network while the
// capture goes on; the answer waits for it, a second at most. A gateway that does
// not answer is no reason to refuse a snapshot: then the clone tells its guest.
func observe(ctx context.Context, rec *vm.Record) func() []store.Network {
	done := make(chan []store.Network, 1)
	go func() {
		out := []store.Network{}
		for _, n := range rec.Networks {
			guest, err := network.Observe(ctx, n.Attachment)
			if err != nil {
				guest = n.Inside()
			}
			out = append(out, asSaved(n, guest))
		}
		done <- out
	}()
	return func() []store.Network { return <-done }
}

func asSaved(n vm.Network, g network.Guest) store.Network {
	return store.Network{
		ID: spelling.Claimed(n.ID), Name: spelling.Claimed(n.Network), MAC: spelling.Claimed(g.MAC),
		IPs: g.IPs, Gateways: g.Gateways, GatewayMAC: spelling.Claimed(g.GatewayMAC), MTU: n.MTU,
	}
}

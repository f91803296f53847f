package capture

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// known is the guest's view of its interfaces, from the VM's record.
func known(rec *vm.Record) []store.Network {
	out := []store.Network{}
	for _, n := range rec.Networks {
		out = append(out, asSaved(n, n.Inside()))
	}
	return out
}

// observe is known plus the MAC of each gateway, which a clone's TAP takes so
// that the guest's ARP cache stays valid. It queries the network while the
// capture continues; its result is waited for, a second at most. A gateway that
// does not answer is no reason to refuse a snapshot: the clone is then informed
// of its gateway's MAC.
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

package main

import (
	"net/netip"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
)

// vmNetwork is one interface in `vm list --format json`: the network's view of
// it, and with a fresh identity the guest's.
type vmNetwork struct {
	Name     string   `json:"name"` // of the CNI network, or tap, or none
	MAC      string   `json:"mac"`
	IP       string   `json:"ip"` // the first; "" if unknown
	Tap      string   `json:"tap"`
	Netns    string   `json:"netns"`
	IPs      []string `json:"ips"`
	Conflist string   `json:"conflist,omitempty"`
	Identity string   `json:"identity,omitempty"` // keep or fresh
	GuestMAC string   `json:"guestMac,omitempty"`
	GuestIPs []string `json:"guestIps,omitempty"`
}

func newVMNetwork(n vm.Network) vmNetwork {
	row := vmNetwork{
		Name: n.Network, MAC: n.MAC, Tap: n.Tap, Netns: n.Netns, IPs: ips(n.IPs),
		Conflist: n.Conflist, Identity: string(n.Identity),
	}
	if n.Network == network.Unplugged {
		row.Name, row.Identity = network.None, ""
	}
	if len(row.IPs) > 0 {
		row.IP = row.IPs[0]
	}
	if n.Guest != nil {
		row.GuestMAC, row.GuestIPs = n.Guest.MAC, ips(n.Guest.IPs)
	}
	return row
}

func ips(list []netip.Prefix) []string {
	out := []string{}
	for _, p := range list {
		out = append(out, p.Addr().String())
	}
	return out
}

func (v vmRow) ips() []string {
	out := []string{}
	for _, n := range v.Networks {
		out = append(out, n.IPs...)
	}
	return out
}

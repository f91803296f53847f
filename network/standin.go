package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// delStandIn runs DEL with a stand-in for a lost netns, in which a device has the
// name and addresses of the attachment's. Plugins read from it what to undo on
// the host: the bridge plugin removes the masquerading of the addresses it finds
// there, and of none without a netns.
func (h Host) delStandIn(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	a := rec.Attachment
	if _, err := h.ensureNetns(a.VM); err != nil {
		return err
	}
	err := InNetns(a.Netns, func() error { return standIn(a.Ifname, a.IPs) })
	if err == nil {
		err = h.cni().DelNetworkList(ctx, list, runtimeConf(rec.Request, a))
	}
	return errors.Join(err, h.removeNetns(a.VM))
}

func standIn(name string, ips []netip.Prefix) error {
	// The peer is never used; every kernel with CNI has veth.
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-lost"}
	if err := netlink.LinkAdd(pair); err != nil {
		return lacking("veth", "make "+name, err)
	}
	for _, p := range ips {
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return failure.Wrap(failure.Damaged, err)
		}
		if p.Addr().Is6() {
			if err := sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0"); err != nil {
				return err
			}
		}
		if err := netlink.AddrAdd(pair, addr); err != nil {
			return fmt.Errorf("address %s of %s: %w", p, name, err)
		}
	}
	return nil
}

package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// wire makes the TAP and connects it with the outside device, both up, in the
// netns of the thread. It fills in the MAC and the MTU.
func wire(r Request, a *Attachment) error {
	out, err := netlink.LinkByName(a.Ifname)
	if err != nil {
		return fmt.Errorf("device %s, which the plugins should have made: %w", a.Ifname, err)
	}
	if out, err = assertMAC(out, r); err != nil {
		return err
	}
	a.MAC, a.MTU = out.Attrs().HardwareAddr.String(), out.Attrs().MTU
	if r.MTU > a.MTU {
		return tooSmall(r, a.MTU)
	}
	tap, err := makeTap(a.Tap, a.MTU, a.QueuePairs)
	if err != nil {
		return err
	}
	if a.Identity == Fresh {
		return translate(a, out, tap)
	}
	if err := netlink.LinkSetUp(out); err != nil {
		return fmt.Errorf("set %s up: %w", a.Ifname, err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set TAP %s up: %w", a.Tap, err)
	}
	return errors.Join(redirect(out, tap), redirect(tap, out))
}

// assertMAC sets the requested MAC if the plugins ignored it: only then do frames
// for the guest reach the device.
func assertMAC(out netlink.Link, r Request) (netlink.Link, error) {
	if r.MAC == "" {
		return out, nil
	}
	want, err := parseMAC(r.MAC)
	if err != nil {
		return nil, err
	}
	if out.Attrs().HardwareAddr.String() == want.String() {
		return out, nil
	}
	if err := netlink.LinkSetHardwareAddr(out, want); err != nil {
		return nil, failure.Hint(failure.New(failure.Incompatible, "wanted MAC %s, the plugins gave %s: %w", want, out.Attrs().HardwareAddr, err),
			"choose a fresh identity, or a network whose devices take a MAC")
	}
	return netlink.LinkByIndex(out.Attrs().Index)
}

// redirect sends every frame that arrives at one device out of another, before
// the netns sees it. It uses the u32 filter without keys, which matches
// everything, because some kernels lack matchall.
func redirect(from, to netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := netlink.QdiscReplace(ingress); err != nil {
		return lacking("sch_ingress", "ingress qdisc of "+from.Attrs().Name, err)
	}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{&netlink.MirredAction{
			ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
			MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: to.Attrs().Index,
		}},
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return lacking("cls_u32 and act_mirred", "redirect "+from.Attrs().Name+" to "+to.Attrs().Name, err)
	}
	return nil
}

// lacking names the kernel feature when netlink reports that it is missing.
func lacking(feature, doing string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return failure.Hint(failure.New(failure.Incompatible, "%s: the kernel has no %s: %w", doing, feature, err),
			"load or build in "+feature)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

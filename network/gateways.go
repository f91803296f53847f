package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// gatewaysFor limits the wait for the gateways of a running guest, askEvery paces
// the requests.
const (
	gatewaysFor = 300 * time.Millisecond
	askEvery    = 50 * time.Millisecond
)

// TellGateways announces the current MACs of its gateways to a guest that
// continues from its memory. A bridge that was recreated, by a reboot or with its
// first port, has another MAC than the guest remembers, and the guest's frames
// are lost until its ARP entry expires. Each gateway is queried on the guest's
// behalf, and its answer sent to the TAP as an announcement (gratuitous ARP,
// unsolicited neighbour advertisement). If one does not answer in time, the guest
// has to find out itself. Call it when the guest runs, after Announce; with
// Fresh, where the TAP is the gateway, it does nothing.
func TellGateways(ctx context.Context, a Attachment) error {
	if a.Netns == "" || a.Network == Unplugged || a.Guest != nil || len(a.Gateways) == 0 {
		return nil
	}
	if err := tellGateways(ctx, a); err != nil {
		return fmt.Errorf("tell VM %s of its gateways: %w", a.VM, err)
	}
	return nil
}

func tellGateways(ctx context.Context, a Attachment) error {
	mac, err := parseMAC(a.MAC)
	if err != nil {
		return err
	}
	var s *packetSocket
	var tap netlink.Link
	err = InNetns(a.Netns, func() (err error) {
		if tap, err = netlink.LinkByName(a.Tap); err != nil {
			return err
		}
		s, err = openPacket(a.Ifname)
		return err
	})
	if err != nil {
		return err
	}
	defer s.close()
	open := slices.Clone(a.Gateways)
	for end := time.Now().Add(gatewaysFor); len(open) > 0 && ctx.Err() == nil && time.Now().Before(end); {
		for _, gw := range open {
			if self, ok := a.selfFor(gw); ok {
				if err := s.send(s.index, question(mac, self, gw)); err != nil {
					return err
				}
			}
		}
		for until := time.Now().Add(askEvery); len(open) > 0; {
			who, its, ok := s.answer(until)
			if !ok {
				break
			}
			i := slices.Index(open, who)
			if i < 0 {
				continue
			}
			if err := s.send(tap.Attrs().Index, announcement(its, who)); err != nil {
				return err
			}
			open = slices.Delete(open, i, i+1)
		}
	}
	return ctx.Err()
}

// selfFor is the address of the guest from which a gateway can be queried.
func (a Attachment) selfFor(gw netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(a.IPs, func(p netip.Prefix) bool { return p.Addr().Is4() == gw.Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return a.IPs[i].Addr(), true
}

// question requests the MAC of gw, announcement announces it.
func question(mac net.HardwareAddr, self, gw netip.Addr) []byte {
	if gw.Is4() {
		return arpFrame(mac, self, gw)
	}
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	last := gw.As16()
	copy(group[13:], last[13:])
	return ndFrame(mac, self, netip.AddrFrom16(group), neighbourSolicit, 0, gw)
}

func announcement(mac net.HardwareAddr, gw netip.Addr) []byte {
	if gw.Is4() {
		return arpFrame(mac, gw, gw)
	}
	return ndFrame(mac, gw, netip.IPv6LinkLocalAllNodes(), neighbourAdvert, ndRouter|ndOverride, gw)
}

// Of RFC 4861.
const (
	neighbourSolicit = 135
	neighbourAdvert  = 136
	ndRouter         = 1 << 31
	ndOverride       = 1 << 29
	optionSource     = 1
	optionTarget     = 2

	ndBytes = 32 // a message with one option
	ipv6At  = 14
	icmpAt  = ipv6At + 40
)

// ndFrame is a neighbour message to a multicast group.
func ndFrame(mac net.HardwareAddr, from, group netip.Addr, kind byte, flags uint32, target netip.Addr) []byte {
	src, dst, of := from.As16(), group.As16(), target.As16()
	m := make([]byte, 0, ndBytes)
	m = append(m, kind, 0, 0, 0)
	m = binary.BigEndian.AppendUint32(m, flags)
	m = append(m, of[:]...)
	option := byte(optionSource)
	if kind == neighbourAdvert {
		option = optionTarget
	}
	m = append(append(m, option, 1), mac...)

	addresses := slices.Concat(src[:], dst[:])
	pseudo := slices.Concat(addresses, []byte{0, 0, 0, ndBytes, 0, 0, 0, unix.IPPROTO_ICMPV6}, m)
	binary.BigEndian.PutUint16(m[2:], onesComplement(pseudo))

	f := append([]byte{0x33, 0x33}, dst[12:]...)
	f = append(f, mac...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, ndBytes, unix.IPPROTO_ICMPV6, 255)
	return slices.Concat(f, addresses, m)
}

// onesComplement is the checksum of the Internet protocols.
func onesComplement(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// answered reads a frame: an ARP reply, or an advertisement with the MAC of its
// target. A MAC that no interface may have is ignored: recorded as the gateway's
// in a snapshot, it would be refused at the restore.
func answered(f []byte) (who netip.Addr, mac net.HardwareAddr, ok bool) {
	if len(f) < arpBytes {
		return who, nil, false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		if binary.BigEndian.Uint16(f[20:]) != 2 {
			return who, nil, false
		}
		who, mac = netip.AddrFrom4([4]byte(f[28:32])), bytes.Clone(f[22:28])
	case unix.ETH_P_IPV6:
		if len(f) < icmpAt+ndBytes || f[ipv6At+6] != unix.IPPROTO_ICMPV6 || f[icmpAt] != neighbourAdvert || f[icmpAt+24] != optionTarget {
			return who, nil, false
		}
		who, mac = netip.AddrFrom16([16]byte(f[icmpAt+8:icmpAt+24])), bytes.Clone(f[icmpAt+26:icmpAt+32])
	}
	return who, mac, ofInterface(mac)
}

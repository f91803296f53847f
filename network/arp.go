package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Announce announces the attachment's IPv4 addresses on the network, so that
// neighbours forget an earlier owner; Attach does so once. With Fresh it also
// announces the MAC of its gateway to the guest and answers for an IPv6 gateway:
// call it after each resume and boot, since the guest receives it only while it
// runs and the kernel forgets the proxy entries when a VMM closes the TAP. For
// None, Tap and Unplugged it does nothing.
func Announce(a Attachment) error {
	if a.Netns == "" || a.Network == Unplugged {
		return nil
	}
	err := InNetns(a.Netns, func() error {
		if err := announceOutside(a); err != nil || a.Guest == nil {
			return err
		}
		return announceGateways(a)
	})
	if err != nil {
		return fmt.Errorf("announce addresses of VM %s: %w", a.VM, err)
	}
	return nil
}

// announceOutside has the kernel send gratuitous ARP for each address of the
// device, which it does whenever a MAC is set, even the same one. A packet socket
// would cost an RCU grace period, 20 ms, to close.
func announceOutside(a Attachment) error {
	if err := sysctl("net/ipv4/conf/"+a.Ifname+"/arp_notify", "1"); err != nil {
		return err
	}
	link, err := netlink.LinkByName(a.Ifname)
	if err != nil {
		return err
	}
	return netlink.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr)
}

func announceGateways(a Attachment) error {
	tap, err := netlink.LinkByName(a.Tap)
	if err != nil {
		return err
	}
	for _, gw := range a.Guest.Gateways {
		if gw.Is4() {
			err = gratuitous(a.Tap, a.Guest.GatewayMAC, gw)
		} else {
			err = proxyND(gw, tap)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func gratuitous(dev, mac string, ip netip.Addr) error {
	from, err := parseMAC(mac)
	if err != nil {
		return err
	}
	s, err := openPacket(dev)
	if err != nil {
		return err
	}
	defer s.close()
	return s.send(s.index, arpFrame(from, ip, ip))
}

// probeEvery and probeFor pace the requests for a gateway's MAC.
const (
	probeEvery = 100 * time.Millisecond
	probeFor   = time.Second
)

// Observe returns what the guest uses now, for a snapshot to record: Inside with
// the MAC of its IPv4 gateway, "" if the gateway does not answer within a second.
// The running guest does not notice.
func Observe(ctx context.Context, a Attachment) (Guest, error) {
	g := a.Inside()
	if a.Guest != nil || a.Netns == "" {
		return g, nil
	}
	self, gw, ok := firstIPv4(a)
	if !ok {
		return g, nil
	}
	mac, err := parseMAC(a.MAC)
	if err != nil {
		return g, err
	}
	var s *packetSocket
	err = InNetns(a.Netns, func() (err error) {
		s, err = openPacket(a.Ifname)
		return err
	})
	if err != nil {
		return g, fmt.Errorf("ask for the gateway of VM %s: %w", a.VM, err)
	}
	defer s.close()
	for end := time.Now().Add(probeFor); g.GatewayMAC == "" && time.Now().Before(end); {
		if err := ctx.Err(); err != nil {
			return g, err
		}
		if err := s.send(s.index, arpFrame(mac, self, gw)); err != nil {
			return g, err
		}
		g.GatewayMAC = s.answerOf(gw, time.Now().Add(probeEvery))
	}
	return g, nil
}

func firstIPv4(a Attachment) (self, gw netip.Addr, ok bool) {
	for _, p := range a.IPs {
		if p.Addr().Is4() && !self.IsValid() {
			self = p.Addr()
		}
	}
	for _, g := range a.Gateways {
		if g.Is4() && !gw.IsValid() {
			gw = g
		}
	}
	return self, gw, self.IsValid() && gw.IsValid()
}

// packetSocket sees every frame of a device before the redirect takes it: the
// kernel delivers frames to ETH_P_ALL first. It sends on any device of its netns.
type packetSocket struct{ fd, index int }

func openPacket(dev string) (*packetSocket, error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev, err)
	}
	all := int(htons(unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &packetSocket{fd, link.Attrs().Index}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: s.index}); err != nil {
		s.close()
		return nil, fmt.Errorf("packet socket at %s: %w", dev, err)
	}
	return s, nil
}

func (s *packetSocket) close() { unix.Close(s.fd) }

// send sends an Ethernet frame out of the device with that index.
func (s *packetSocket) send(index int, frame []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: htons(binary.BigEndian.Uint16(frame[12:])), Ifindex: index, Halen: 6}
	copy(to.Addr[:], frame[:6])
	if err := unix.Sendto(s.fd, frame, 0, to); err != nil {
		return fmt.Errorf("send to the neighbours: %w", err)
	}
	return nil
}

// answer waits until a deadline for the next neighbour that reports its MAC.
func (s *packetSocket) answer(until time.Time) (who netip.Addr, mac net.HardwareAddr, ok bool) {
	buf := make([]byte, 128)
	for left := time.Until(until); left > 0; left = time.Until(until) {
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return who, nil, false
		}
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			continue
		}
		if who, mac, ok = answered(buf[:n]); ok {
			return who, mac, true
		}
	}
	return who, nil, false
}

// answerOf waits for a certain one, "" if it does not answer.
func (s *packetSocket) answerOf(ip netip.Addr, until time.Time) string {
	for {
		who, mac, ok := s.answer(until)
		if !ok {
			return ""
		}
		if who == ip {
			return mac.String()
		}
	}
}

const arpBytes = 42 // Ethernet header and ARP for IPv4

// arpFrame broadcasts a request for an address; target == sender announces it.
func arpFrame(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	f := make([]byte, 0, arpBytes)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1) // ARP, Ethernet, IPv4, lengths, request
	f = append(f, mac...)
	f = append(f, sender.AsSlice()...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, target.AsSlice()...)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

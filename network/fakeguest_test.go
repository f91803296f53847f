package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// guest is the kernel of this machine playing a guest: a netns with a TAP of its
// own, and a pump that carries frames between it and the TAP of a VM, as a VMM
// does between a virtio queue and the TAP.
type guest struct {
	netns string
	files []*os.File
}

// boot opens the attachment's TAP as Cloud Hypervisor does and gives the guest
// the identity that a says is inside.
func boot(t testing.TB, a *Attachment) *guest {
	t.Helper()
	in := a.Inside()
	g := &guest{netns: filepath.Join(t.TempDir(), "guest")}
	must0(t, makeNetns(g.netns, "00000000000000000000000000000000", ""))
	t.Cleanup(func() {
		g.halt()
		dropNetns(g.netns)
	})
	outer := openTap(t, a.Netns, a.Tap, a.QueuePairs)
	inner := openTap(t, g.netns, "eth0", 1)
	g.files = append(append(g.files, outer...), inner...)
	must0(t, InNetns(g.netns, func() error { return configure(in, a.MTU) }))
	for _, q := range outer {
		go pump(inner[0], q)
	}
	go pump(outer[0], inner[0])
	return g
}

// halt is the end of the VMM.
func (g *guest) halt() {
	for _, f := range g.files {
		f.Close()
	}
}

func configure(in Guest, mtu int) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mac, err := parseMAC(in.MAC)
	if err != nil {
		return err
	}
	if err := sysctl("net/ipv6/conf/eth0/disable_ipv6", "0"); err != nil {
		return err
	}
	if err := sysctl("net/ipv6/conf/eth0/accept_dad", "0"); err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetHardwareAddr(link, mac), netlink.LinkSetMTU(link, mtu), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	for _, p := range in.IPs {
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	for _, gw := range in.Gateways {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		dst := &net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("gateway %s: %w", gw, err)
		}
	}
	return nil
}

// remember fixes a neighbour, as a guest does that was frozen with a warm cache.
func (g *guest) remember(ip netip.Addr, mac string) error {
	return g.believe(ip, mac, netlink.NUD_PERMANENT)
}

// believe puts an entry into the guest's cache.
func (g *guest) believe(ip netip.Addr, mac string, state int) error {
	return InNetns(g.netns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		hw, err := parseMAC(mac)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: ip.AsSlice(), HardwareAddr: hw, State: state})
	})
}

// believes is the MAC that the guest's cache has for an address.
func (g *guest) believes(t testing.TB, ip netip.Addr) (mac string) {
	t.Helper()
	must0(t, InNetns(g.netns, func() error {
		all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range all {
			if n.IP.Equal(ip.AsSlice()) {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	}))
	return mac
}

func openTap(t testing.TB, netns, name string, queues int) []*os.File {
	t.Helper()
	var files []*os.File
	must0(t, InNetns(netns, func() error {
		for range queues {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			files = append(files, os.NewFile(uintptr(fd), name))
			req, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			flags := unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
			if queues > 1 {
				flags |= unix.IFF_MULTI_QUEUE
			}
			req.SetUint16(uint16(flags))
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
				return fmt.Errorf("open TAP %s: %w", name, err)
			}
		}
		return nil
	}))
	// A file joins the poller of the runtime only after TUNSETIFF.
	for i, f := range files {
		fd, err := unix.Dup(int(f.Fd()))
		must0(t, err)
		f.Close()
		must0(t, unix.SetNonblock(fd, true))
		files[i] = os.NewFile(uintptr(fd), name)
	}
	return files
}

func pump(to, from *os.File) {
	buf := make([]byte, 10+65536) // virtio-net header and frame
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// exchangeTime bounds a network exchange in a test.
const exchangeTime = networktest.Patience

// ping sends echo requests from a netns until one is answered.
func ping(netns, dst string) error {
	return networktest.Ping(func(do func() error) error { return InNetns(netns, do) }, dst, exchangeTime)
}

// serve answers TCP and UDP at port 7777 of a netns: name, space, address of the
// peer as seen there.
func serve(t testing.TB, netns, name string) {
	t.Helper()
	must0(t, InNetns(netns, func() error {
		l, err := net.Listen("tcp", ":7777")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", ":7777")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s %s", name, host)
				c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(from.String())
				u.WriteTo([]byte(name+" "+host), from)
			}
		}()
		return nil
	}))
}

// ask returns what serve answers over tcp or udp.
func ask(netns, network, dst string) (string, error) {
	var c net.Conn
	err := InNetns(netns, func() (err error) {
		c, err = net.DialTimeout(network, net.JoinHostPort(dst, "7777"), exchangeTime)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(exchangeTime))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func must0(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

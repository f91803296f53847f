package restore

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// addressOf reads the address of interface i, of so many, from a kernel command
// line: ip=ADDRESS:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:… of Linux. Without a
// device it is the first interface's; a device name counts if it has a number,
// such as eth1, or if there is only one interface. A non-static setting (dhcp,
// off) yields nothing.
func addressOf(cmdline string, i, interfaces int) (ip netip.Prefix, gateways []netip.Addr, ok bool) {
	for word := range strings.FieldsSeq(cmdline) {
		value, is := strings.CutPrefix(word, "ip=")
		if !is {
			continue
		}
		f := strings.Split(value, ":")
		for len(f) < 6 {
			f = append(f, "")
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil || !a.Is4() || a.IsUnspecified() || a.IsMulticast() || !means(f[5], i, interfaces) {
			continue
		}
		ip = netip.PrefixFrom(a, prefixLength(f[3], a))
		if g, err := netip.ParseAddr(f[2]); err == nil && g.Is4() && !g.IsUnspecified() {
			gateways = []netip.Addr{g}
		}
		return ip, gateways, true
	}
	return ip, nil, false
}

// means reports whether a device is interface i.
func means(device string, i, interfaces int) bool {
	if device == "" {
		return i == 0
	}
	n, err := strconv.Atoi(strings.TrimPrefix(device, "eth"))
	return err == nil && n == i || err != nil && interfaces == 1
}

// prefixLength of a netmask; without one it is that of the address class, as in
// the kernel.
func prefixLength(netmask string, of netip.Addr) int {
	if m, err := netip.ParseAddr(netmask); err == nil && m.Is4() {
		if ones, bits := net.IPMask(m.AsSlice()).Size(); bits == 32 && ones > 0 {
			return ones
		}
	}
	ones, _ := net.IP(of.AsSlice()).DefaultMask().Size()
	if ones == 0 {
		return 32
	}
	return ones
}

package vm

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
)

func TestACommandLineTellsTheGuestItsAddress(t *testing.T) {
	lan := network.Attachment{
		Network: "lan", Netns: "/run/netns/x", MAC: "02:00:00:00:00:07",
		IPs:      []netip.Prefix{netip.MustParsePrefix("fd00::5/64"), netip.MustParsePrefix("10.1.2.3/20")},
		Gateways: []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.1.0.1")},
	}
	mapped := lan // outside; the guest remembers another one
	mapped.Guest = &network.Guest{MAC: "02:00:00:00:00:01", IPs: []netip.Prefix{netip.MustParsePrefix("192.168.0.9/24")}, Gateways: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}
	wanted := network.Attachment{Network: "lan", MAC: "02:00:00:00:00:07"}
	asked := wanted
	asked.IPs = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}
	for _, c := range []struct {
		name, text, want string
		networks         []network.Attachment
		refused          bool
	}{
		{"all of them", "ip={ip}::{gateway}:{netmask}:{hostname}:eth0:off a={prefix} m={mac}", "ip=10.1.2.3::10.1.0.1:255.255.240.0:web:eth0:off a=10.1.2.3/20 m=02:00:00:00:00:07", []network.Attachment{lan}, false},
		{"behind NAT", "ip={ip} gw={gateway}", "ip=192.168.0.9 gw=192.168.0.1", []network.Attachment{mapped}, false},
		{"the first with an address", "ip={ip}", "ip=10.1.2.3", []network.Attachment{{Network: network.None}, lan}, false},
		{"before it is attached", "h={hostname} ip={ip}", "h=web ip={ip}", []network.Attachment{wanted}, false},
		{"before it is attached, with an address that is wanted", "ip={ip}::{gateway}:{netmask}", "ip={ip}::{gateway}:{netmask}", []network.Attachment{asked}, false},
		{"no interface", "ip={ip}", "", nil, true},
		{"no network", "ip={ip}", "", []network.Attachment{{Network: network.Tap, Tap: "t0"}}, true},
		{"a network without addresses", "ip={ip}", "", []network.Attachment{{Network: "l2", Netns: "/run/netns/x", MAC: "02:00:00:00:00:07"}}, true},
		{"the name alone", "host={hostname}", "host=web", nil, false},
		{"braces of the guest's own", "x={foo} {} {IP}", "x={foo} {} {IP}", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := &Record{Name: "web", Cmdline: c.text}
			for _, a := range c.networks {
				rec.Networks = append(rec.Networks, Network{"_net0", a})
			}
			got, err := rec.commandLine()
			if got != c.want || c.refused != errors.Is(err, failure.Usage) {
				t.Errorf("%q, %v; want %q, refused %v", got, err, c.want, c.refused)
			}
		})
	}
}

package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nat maps addresses one to one in both directions, in the netns of the thread:
//
//	in  at ifname to outside       → to inside
//	out at ifname from inside      → from outside
//	in  at tap    to old gateway   → to new gateway
//
// One table a device and family, replaced as a whole.
func nat(ifname, tap string, pairs, gateways []mapping) error {
	c, err := nftables.New()
	if err != nil {
		return lacking("nf_tables", "NAT", err)
	}
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		mine := ofFamily(fam, pairs)
		if len(mine) == 0 {
			continue
		}
		t := &nftables.Table{Family: fam, Name: "cocoon-" + ifname}
		c.AddTable(t) // so that the deletion finds one
		c.DelTable(t)
		c.AddTable(t)
		pre := c.AddChain(&nftables.Chain{
			Name: "pre", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		post := c.AddChain(&nftables.Chain{
			Name: "post", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		for _, p := range mine {
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: rule(match{ifname, expr.MetaKeyIIFNAME, toAddr, p.outside}, expr.NATTypeDestNAT, p.inside)})
			c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: rule(match{ifname, expr.MetaKeyOIFNAME, fromAddr, p.inside}, expr.NATTypeSourceNAT, p.outside)})
		}
		for _, g := range ofFamily(fam, gateways) {
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: rule(match{tap, expr.MetaKeyIIFNAME, toAddr, g.inside}, expr.NATTypeDestNAT, g.outside)})
		}
	}
	if err := c.Flush(); err != nil {
		return lacking("nf_tables with nat", "NAT", err)
	}
	return nil
}

func ofFamily(fam nftables.TableFamily, pairs []mapping) []mapping {
	var out []mapping
	for _, p := range pairs {
		if p.inside.Is4() == (fam == nftables.TableFamilyIPv4) {
			out = append(out, p)
		}
	}
	return out
}

// side is an address of the IP header.
type side int

const (
	fromAddr side = iota
	toAddr
)

// match is a packet at a device with an address.
type match struct {
	device string
	at     expr.MetaKey // of the name of the device
	side   side
	ip     netip.Addr
}

// rule rewrites what m matches to the address to.
func rule(m match, kind expr.NATType, to netip.Addr) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, m.device)
	size, offset, family := uint32(4), uint32(12), uint32(unix.NFPROTO_IPV4) // RFC 791: source at 12
	if m.ip.Is6() {
		size, offset, family = 16, 8, unix.NFPROTO_IPV6 // RFC 8200: source at 8
	}
	if m.side == toAddr {
		offset += size
	}
	return []expr.Any{
		&expr.Meta{Key: m.at, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: m.ip.AsSlice()},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: kind, Family: family, RegAddrMin: 1},
	}
}

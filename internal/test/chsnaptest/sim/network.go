package sim

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// frameLimit bounds header and frame, bytes; framesPerTick what one tick answers.
const (
	frameLimit    = vnetHeader + 65536
	framesPerTick = 64
	askEvery      = 256 // ticks between questions for a gateway's MAC that is known
)

const (
	etherARP  = 0x0806
	etherIPv4 = 0x0800
)

// nic is the guest's network program. Its identity stands in RAM, in the header
// page, so that a restored guest goes on as the one it was.
type nic struct {
	tap *tap // of the first device; nil: no network
	buf []byte
}

// bootNIC puts the identity that the kernel command line gives into RAM:
// net=10.1.2.3/24, gw=10.1.2.1, hb=PORT.
func (g *guest) bootNIC(cmdline, mac string) {
	options := map[string]string{}
	for _, word := range strings.FieldsFunc(cmdline, func(r rune) bool { return r == ' ' || r == ',' }) {
		key, value, _ := strings.Cut(word, "=")
		options[key] = value
	}
	address, _, _ := strings.Cut(options["net"], "/")
	port, _ := strconv.ParseUint(options["hb"], 10, 16) // 0: no heartbeat
	hw, err := net.ParseMAC(mac)
	if err != nil {
		hw = make(net.HardwareAddr, 6)
	}
	g.put(hdrMAC, packMAC(hw))
	g.put(hdrAddress, uint64(parseIPv4(address)))
	g.put(hdrGateway, uint64(parseIPv4(options["gw"])))
	g.put(hdrPort, port)
	g.put(hdrGatewayMAC, 0)
}

func parseIPv4(s string) uint32 {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func packMAC(mac []byte) uint64 {
	return binary.BigEndian.Uint64(append([]byte{0, 0}, mac[:6]...))
}

func unpackMAC(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v)[2:] }

func (g *guest) networked() bool { return g.nic.tap != nil && g.get(hdrAddress) != 0 }

// serveNet answers what came in since the last tick.
func (g *guest) serveNet() {
	if !g.networked() {
		return
	}
	for range framesPerTick {
		f := g.nic.tap.receive(g.nic.buf)
		if f == nil {
			return
		}
		if len(f) < 42 {
			continue
		}
		switch binary.BigEndian.Uint16(f[12:]) {
		case etherARP:
			g.takeARP(f)
		case etherIPv4:
			g.takeIPv4(f)
		}
	}
}

// frame begins one of ours.
func (g *guest) frame(to []byte, kind uint16) []byte {
	f := append(append(make([]byte, 0, 128), to...), unpackMAC(g.get(hdrMAC))...)
	return binary.BigEndian.AppendUint16(f, kind)
}

// sendARP asks (1) or answers (2).
func (g *guest) sendARP(kind uint16, to, targetMAC []byte, target uint32) {
	f := append(g.frame(to, etherARP), 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, kind)
	f = append(f, unpackMAC(g.get(hdrMAC))...)
	f = binary.BigEndian.AppendUint32(f, uint32(g.get(hdrAddress)))
	f = append(f, targetMAC...)
	g.nic.tap.send(binary.BigEndian.AppendUint32(f, target))
}

func (g *guest) takeARP(f []byte) {
	if string(f[14:20]) != "\x00\x01\x08\x00\x06\x04" {
		return
	}
	sender := binary.BigEndian.Uint32(f[28:])
	if gateway := uint32(g.get(hdrGateway)); gateway != 0 && sender == gateway {
		g.put(hdrGatewayMAC, packMAC(f[22:28]))
	}
	if binary.BigEndian.Uint16(f[20:]) == 1 && binary.BigEndian.Uint32(f[38:]) == uint32(g.get(hdrAddress)) {
		g.sendARP(2, f[22:28], f[22:28], sender)
	}
}

// takeIPv4 answers an echo request for the guest's address.
func (g *guest) takeIPv4(f []byte) {
	h := f[14:]
	total := int(binary.BigEndian.Uint16(h[2:]))
	mine := binary.BigEndian.Uint32(h[16:]) == uint32(g.get(hdrAddress))
	fragment := binary.BigEndian.Uint16(h[6:])&0x3fff != 0
	if h[0] != 0x45 || total < 28 || total > len(h) || !mine || fragment || h[9] != 1 || h[20] != 8 {
		return
	}
	echo := append([]byte{}, h[20:total]...)
	echo[0], echo[2], echo[3] = 0, 0, 0
	binary.BigEndian.PutUint16(echo[2:], checksum(echo))
	out := g.ipv4(g.frame(f[6:12], etherIPv4), 1, binary.BigEndian.Uint32(h[12:]), len(echo))
	g.nic.tap.send(append(out, echo...))
}

// ipv4 appends the header of a packet with payload bytes.
func (g *guest) ipv4(f []byte, protocol byte, to uint32, payload int) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+payload))
	h = binary.BigEndian.AppendUint32(h, uint32(g.get(hdrAddress)))
	h = binary.BigEndian.AppendUint32(h, to)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(f, h...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// beat sends the counter and the address to the gateway, once its MAC is known.
func (g *guest) beat(counter uint64) {
	gateway, port := uint32(g.get(hdrGateway)), uint16(g.get(hdrPort))
	if !g.networked() || gateway == 0 || port == 0 {
		return
	}
	known := g.get(hdrGatewayMAC)
	if known == 0 || counter%askEvery == 0 {
		g.sendARP(1, unpackMAC(1<<48-1), make([]byte, 6), gateway)
	}
	if known == 0 {
		return
	}
	text := fmt.Sprintf("beat %08x %08x", uint32(counter), uint32(g.get(hdrAddress)))
	f := g.ipv4(g.frame(unpackMAC(known), etherIPv4), 17, gateway, 8+len(text))
	f = binary.BigEndian.AppendUint16(f, port)
	f = binary.BigEndian.AppendUint16(f, port)
	f = binary.BigEndian.AppendUint16(f, uint16(8+len(text)))
	g.nic.tap.send(append(append(f, 0, 0), text...))
}

// Package guest is a tiny bare-metal guest that proves whether a VM was saved and
// rebuilt correctly.
//
// It boots by PVH in milliseconds, fills RAM with a pattern (a third of the pages
// stay zero), and then loops for ever: it verifies pages, dirties some, counts in
// RAM and in sector 1 of its first virtio-blk disk, and prints both counters:
//
//	BOOT
//	FILLED
//	tick 0000002a 0000002a      RAM counter, disk counter (0 without a disk)
//	BAD page 00000123           something is not what it was
//
// After a restore the counters continue from where they were and agree, and no
// BAD line appears; a guest that boots again prints BOOT.
//
// With a virtio-net device and an address it answers ARP and ICMP echo on the
// first one, and sends a UDP datagram to its gateway each tick, with the RAM
// counter and its address: see [ParseBeat]. Its MAC (of the device), addresses
// (of the command line) and the gateway's MAC (from ARP) are in RAM, so a
// restored guest keeps them whatever the network is now; ARP from the gateway,
// and an ARP request every 256 ticks, bring a new MAC.
//
// Words of the kernel command line, separated by spaces or commas: fill=MIB
// (64) is how much RAM gets the pattern, dirty=N (1) how many pages a tick
// changes; net=10.1.2.3/24 is the address (the prefix length is ignored, since
// answers go back to the MAC that asked), gw=10.1.2.1 the gateway, hb=9999 the
// port, source and destination, of the datagrams; none without gw or hb.
//
// guest.elf is built from src by src/build.sh (OUT relative to src); a test
// compares it with its source. Source of the boot protocol: Cloud Hypervisor v53
// takes an ELF64 with a Xen PVH note; its virtio BARs lie above 4 GiB, so the
// devices are driven through the PCI configuration window.
package guest

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

//go:embed guest.elf
var elf []byte

// ELF returns the guest's kernel image.
func ELF() []byte { return bytes.Clone(elf) }

// WriteFile writes the kernel image to a new or existing file, 0644.
func WriteFile(path string) error { return os.WriteFile(path, elf, 0o644) }

// ParseTick reads one line of serial output; ok is false for any other line.
func ParseTick(line string) (ram, disk uint32, ok bool) {
	f := strings.Fields(strings.TrimRight(line, "\r\n"))
	if len(f) != 3 || f[0] != "tick" || len(f[1]) != 8 || len(f[2]) != 8 {
		return 0, 0, false
	}
	r, err := strconv.ParseUint(f[1], 16, 32)
	if err != nil {
		return 0, 0, false
	}
	d, err := strconv.ParseUint(f[2], 16, 32)
	return uint32(r), uint32(d), err == nil
}

// ParseBeat reads the payload of a datagram, "beat 0000002a 0a010203": the RAM
// counter and the address the guest uses.
func ParseBeat(payload []byte) (ram uint32, address netip.Addr, ok bool) {
	var a uint32
	if n, err := fmt.Sscanf(string(payload), "beat %08x %08x", &ram, &a); n != 2 || err != nil || len(payload) != 22 {
		return 0, netip.Addr{}, false
	}
	return ram, netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a))), true
}

// LastTick returns the counters of the last whole tick line of a serial log.
func LastTick(serial []byte) (ram, disk uint32, ok bool) {
	end := bytes.LastIndexByte(serial, '\n')
	for end >= 0 {
		start := bytes.LastIndexByte(serial[:end], '\n')
		if ram, disk, ok = ParseTick(string(serial[start+1 : end])); ok {
			return ram, disk, true
		}
		end = start
	}
	return 0, 0, false
}

// Bad returns every BAD line of a serial log.
func Bad(serial []byte) []string {
	var bad []string
	for line := range strings.Lines(string(serial)) {
		if strings.HasPrefix(line, "BAD") {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	return bad
}

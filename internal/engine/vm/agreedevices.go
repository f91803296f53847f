package vm

import (
	"net"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/network"
)

func (a *agreement) disks() error {
	sp, rec := a.Spec.Disks, a.said.Disks
	if len(sp) > maxDisks || len(sp) != len(rec) {
		return disagree("%d disks in the spec, %d in the record", len(sp), len(rec))
	}
	if a.Config != nil && len(a.Config.Disks()) != len(sp) {
		return disagree("%d disks in the spec, %d in config.json", len(sp), len(a.Config.Disks()))
	}
	a.out.rec.Disks = []Disk{}
	for i := range sp {
		d, err := a.disk(i)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(a.out.rec.Disks, func(o Disk) bool { return o.DeviceID == d.DeviceID }) {
			return disagree("two disks %s", d.DeviceID)
		}
		a.out.rec.Disks = append(a.out.rec.Disks, d)
	}
	return nil
}

// disk number i. Its index is its position: the name of its file is derived from
// it.
func (a *agreement) disk(i int) (Disk, error) {
	s, r := a.Spec.Disks[i], a.said.Disks[i]
	id, ok1 := s.DeviceID.Word(maxWord)
	serial, ok2 := s.Serial.Word(maxWord)
	if !ok1 || !ok2 || id == "" || s.Format != spelling.Claimed("raw") {
		return Disk{}, disagree("disk %d has the id %s, the serial %s, the format %s", i, s.DeviceID, s.Serial, s.Format)
	}
	d := Disk{Index: i, DeviceID: id, Serial: serial, Image: s.Image, Readonly: s.Image != "", Bytes: s.Bytes}
	if d.Image == "" {
		d.File = diskFile(i)
	}
	r.File = d.File // the record's is not trusted
	if s.Index != i || s.Readonly != d.Readonly || r != d {
		return Disk{}, disagree("disk %d is %d %s %s read-only %v of %d bytes in the spec, %d %.80q %.80q read-only %v of %d bytes in the record (an image is read-only, and nothing else is)",
			i, s.Index, s.DeviceID, s.Serial, s.Readonly, s.Bytes, r.Index, r.DeviceID, r.Serial, r.Readonly, r.Bytes)
	}
	if d.Bytes < 0 || d.Bytes > maxDiskBytes {
		return Disk{}, disagree("disk %d has %d bytes", i, d.Bytes)
	}
	if a.Config == nil {
		return d, nil
	}
	if c := a.Config.Disks()[i]; c.ID != id || c.Serial != serial || c.Readonly != d.Readonly {
		return Disk{}, disagree("disk %d is %.80q %.80q read-only %v in config.json, %s %s %v in the spec", i, c.ID, c.Serial, c.Readonly, id, serial, d.Readonly)
	}
	return d, nil
}

func (a *agreement) networks() error {
	sp, rec := a.Spec.Networks, a.said.Networks
	if len(rec) > network.MaxInterfaces || len(sp) != 0 && len(sp) != len(rec) { // the first snapshots have none in the spec
		return disagree("%d interfaces in the spec, %d in the record", len(sp), len(rec))
	}
	if a.Config != nil && len(a.Config.Nets()) != len(rec) {
		return disagree("%d interfaces in the record, %d in config.json", len(rec), len(a.Config.Nets()))
	}
	for i := range rec {
		n, err := a.network(i)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(a.out.interfaces, func(o Interface) bool { return o.ID == n.ID }) {
			return disagree("two interfaces %s", n.ID)
		}
		a.out.interfaces = append(a.out.interfaces, n)
	}
	return nil
}

func (a *agreement) network(i int) (Interface, error) {
	r := a.said.Networks[i]
	out := Interface{ID: r.ID, Attachment: attached(r.Attachment), Remembered: r.Inside(), SavedMTU: r.MTU}
	if err := checkAttachment(r); err != nil {
		return out, err
	}
	if len(a.Spec.Networks) > 0 {
		s := a.Spec.Networks[i]
		id, ok1 := s.ID.Word(maxWord)
		mac, ok2 := s.MAC.Word(maxWord)
		gateway, ok3 := s.GatewayMAC.Word(maxWord)
		if !ok1 || !ok2 || !ok3 || id != r.ID || !sameMAC(mac, r.Inside().MAC) || !isMAC(gateway) || s.MTU < 0 || s.MTU > maxMTU || len(s.IPs)+len(s.Gateways) > maxAddresses {
			return out, disagree("interface %d is %s with MAC %s, gateway %s, MTU %d in the spec, %s with MAC %s in the record", i, s.ID, s.MAC, s.GatewayMAC, s.MTU, r.ID, r.Inside().MAC)
		}
		out.Remembered = network.Guest{MAC: mac, IPs: s.IPs, Gateways: s.Gateways, GatewayMAC: gateway}
		out.SavedMTU = s.MTU
	}
	if a.Config == nil {
		return out, nil
	}
	c := a.Config.Nets()[i]
	if c.ID != r.ID || !sameMAC(c.MAC, r.Inside().MAC) || max(c.Queues/2, 1) != max(r.QueuePairs, 1) {
		return out, disagree("interface %d is %.80q with MAC %.80q and %d queues in config.json, %s with %s and %d pairs in the record", i, c.ID, c.MAC, c.Queues, r.ID, r.Inside().MAC, r.QueuePairs)
	}
	return out, nil
}

// attached is the part of a foreign attachment that is requested again; paths and
// device names of its host stay behind.
func attached(a network.Attachment) network.Attachment {
	out := network.Attachment{
		Network: a.Network, MAC: a.MAC, IPs: a.IPs, Gateways: a.Gateways, MTU: a.MTU,
		QueuePairs: a.QueuePairs, Identity: a.Identity, Guest: a.Guest,
	}
	if a.Network == network.Tap {
		out.Tap = a.Tap
	}
	return out
}

func checkAttachment(n Network) error {
	inside := n.Inside()
	switch {
	case n.ID == "" || !spelling.Word(n.ID, maxWord) || !spelling.Word(n.Network, maxWord) || n.Tap != "" && !spelling.Device(n.Tap):
		return disagree("interface %.80q on network %.80q, TAP %.80q", n.ID, n.Network, n.Tap)
	case !isMAC(n.MAC) || !isMAC(inside.MAC) || !isMAC(inside.GatewayMAC):
		return disagree("interface %s has MAC %.80q outside, %.80q inside, its gateway %.80q", n.ID, n.MAC, inside.MAC, inside.GatewayMAC)
	case n.Identity != "" && n.Identity != network.Keep && n.Identity != network.Fresh:
		return disagree("interface %s has the identity %.80q", n.ID, n.Identity)
	case n.QueuePairs < 0 || n.QueuePairs > maxQueuePairs || n.MTU < 0 || n.MTU > maxMTU:
		return disagree("interface %s has %d queue pairs and an MTU of %d", n.ID, n.QueuePairs, n.MTU)
	case len(n.IPs)+len(n.Gateways)+len(inside.IPs)+len(inside.Gateways) > 2*maxAddresses:
		return disagree("interface %s has %d addresses", n.ID, len(n.IPs)+len(inside.IPs))
	}
	return nil
}

// isMAC accepts a MAC, or none at all.
func isMAC(s string) bool {
	_, err := net.ParseMAC(s)
	return s == "" || err == nil && spelling.Word(s, maxWord)
}

func sameMAC(a, b string) bool {
	x, err1 := net.ParseMAC(a)
	y, err2 := net.ParseMAC(b)
	return a == "" && b == "" || err1 == nil && err2 == nil && slices.Equal(x, y)
}

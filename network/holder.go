package network

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Holder is the owner of a MAC or address.
type Holder struct {
	What  string // "MAC …" or "address …"; "" if it is free
	VM    string // id, for a VM with a record
	Other string // otherwise the name in the host-local IPAM
}

func (h Holder) String() string {
	switch {
	case h.What == "":
		return ""
	case h.VM != "":
		return h.What + " belongs to VM " + h.VM
	}
	return h.What + " is leased by " + h.Other
}

// Holder finds the owner of the MAC or an address that r requests: a VM with a
// record, or the holder of a host-local IPAM lease. Other IPAMs only answer
// during an Attach. It fails as Check does.
func (h Host) Holder(r Request) (Holder, error) {
	conf, err := h.find(r.Network)
	if err != nil {
		return Holder{}, err
	}
	others, err := h.records()
	if err != nil {
		return Holder{}, err
	}
	for _, o := range others {
		if what := claims(r, o.Attachment); what != "" {
			return Holder{What: what, VM: o.Attachment.VM}, nil
		}
	}
	for _, ip := range r.IPs {
		if id := leaseHolder(conf.list.Bytes, r.Network, ip); id != "" && id != r.VM {
			return Holder{What: "address " + ip.String(), Other: id}, nil
		}
	}
	return Holder{}, nil
}

// Check finds a network by name with all its plugins; error classes as those of
// Attach.
func (h Host) Check(name string) error {
	_, err := h.find(name)
	return err
}

// hostLocalDir is where the host-local plugin keeps its leases unless the
// conflist says dataDir.
const hostLocalDir = "/var/lib/cni/networks"

// leaseHolder reads the holder of an address from the folder of the host-local
// plugin: a file named like the address, whose first line is the container's id.
// "" without such a file, and with any other IPAM.
func leaseHolder(config []byte, network string, ip netip.Addr) string {
	var list struct {
		Plugins []struct {
			IPAM struct {
				Type    string `json:"type"`
				DataDir string `json:"dataDir"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if json.Unmarshal(config, &list) != nil {
		return ""
	}
	for _, p := range list.Plugins {
		if p.IPAM.Type != "host-local" {
			continue
		}
		dir := hostLocalDir
		if p.IPAM.DataDir != "" {
			dir = p.IPAM.DataDir
		}
		b, err := os.ReadFile(filepath.Join(dir, network, ip.String()))
		if err != nil {
			continue
		}
		first, _, _ := bytes.Cut(b, []byte("\n"))
		return strings.TrimSpace(string(first))
	}
	return ""
}

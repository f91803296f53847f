package network

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Holder names who has the MAC or an address that r wants: a VM with a record,
// or whoever holds a lease of the host-local IPAM. "" when nobody is known to;
// other IPAMs answer only when they are asked, which Attach does.
func (h Host) Holder(r Request) (string, error) {
	others, err := h.records()
	if err != nil {
		return "", err
	}
	for _, o := range others {
		if what := claims(r, o.Attachment); what != "" {
			return what + " belongs to VM " + o.Attachment.VM, nil
		}
	}
	conf, err := h.find(r.Network)
	if err != nil {
		return "", err
	}
	for _, ip := range r.IPs {
		if id := leaseHolder(conf.list.Bytes, r.Network, ip); id != "" && id != r.VM {
			return "address " + ip.String() + " is leased by " + id, nil
		}
	}
	return "", nil
}

// hostLocalDir is where the host-local plugin keeps its leases unless the
// conflist says dataDir.
const hostLocalDir = "/var/lib/cni/networks"

// leaseHolder reads who leases an address from the folder of the host-local
// plugin: a file of the address's name whose first line is the container's id.
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

package main

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/restore"
)

// vmNetwork is one interface in `vm list --format json`: how the network sees
// it, and with a fresh identity what the guest believes.
type vmNetwork struct {
	Name     string   `json:"name"` // of the CNI network, or tap, or none
	MAC      string   `json:"mac"`
	IP       string   `json:"ip"` // the first; "" where cocoon does not know
	Tap      string   `json:"tap"`
	Netns    string   `json:"netns"`
	IPs      []string `json:"ips"`
	Conflist string   `json:"conflist,omitempty"`
	Identity string   `json:"identity,omitempty"` // keep or fresh
	GuestMAC string   `json:"guestMac,omitempty"`
	GuestIPs []string `json:"guestIps,omitempty"`
}

func newVMNetwork(n vm.Network) vmNetwork {
	row := vmNetwork{
		Name: n.Network, MAC: n.MAC, Tap: n.Tap, Netns: n.Netns, IPs: ips(n.IPs),
		Conflist: n.Conflist, Identity: string(n.Identity),
	}
	if n.Network == network.Unplugged {
		row.Name, row.Identity = network.None, ""
	}
	if len(row.IPs) > 0 {
		row.IP = row.IPs[0]
	}
	if n.Guest != nil {
		row.GuestMAC, row.GuestIPs = n.Guest.MAC, ips(n.Guest.IPs)
	}
	return row
}

func ips(list []netip.Prefix) []string {
	out := []string{}
	for _, p := range list {
		out = append(out, p.Addr().String())
	}
	return out
}

func (v vmRow) ips() []string {
	out := []string{}
	for _, n := range v.Networks {
		out = append(out, n.IPs...)
	}
	return out
}

// parseNetworks reads what --network says for a new VM.
func parseNetworks(list []string) ([]network.Request, error) {
	var out []network.Request
	for _, s := range list {
		r, err := parseNetwork(s)
		if err != nil {
			return nil, err
		}
		if r.Network != network.None {
			out = append(out, r)
		}
	}
	if len(out) > 0 && len(out) < len(list) {
		return nil, failure.New(failure.Usage, "--network none goes with no other network")
	}
	return out, nil
}

func parseNetwork(s string) (network.Request, error) {
	name, rest, _ := strings.Cut(s, ",")
	r := network.Request{Network: name}
	tap, isTap := strings.CutPrefix(name, "tap=")
	switch {
	case isTap && tap != "":
		r.Network, r.Tap = network.Tap, tap
	case name == "keep" || name == "fresh":
		return r, failure.New(failure.Usage, "--network %s goes with --from-snapshot", name)
	case name == "" || strings.Contains(name, "=") || name == network.Tap || name == network.Unplugged:
		return r, failure.New(failure.Usage, "--network %q: none, tap=NAME or the name of a CNI network", s)
	}
	if rest == "" {
		return r, nil
	}
	for _, o := range strings.Split(rest, ",") {
		if err := networkOption(&r, o); err != nil {
			return r, err
		}
	}
	return r, nil
}

// networkOption reads ip=, which may stand once a family, mac= and queues=.
func networkOption(r *network.Request, option string) error {
	k, v, _ := strings.Cut(option, "=")
	switch k {
	case "ip":
		ip, err := netip.ParseAddr(v)
		if err != nil {
			return failure.New(failure.Usage, "--network ip=%s: no address", v)
		}
		r.IPs = append(r.IPs, ip)
	case "mac":
		r.MAC = strings.ToLower(v)
	case "queues":
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return failure.New(failure.Usage, "--network queues=%s: the number of queue pairs", v)
		}
		r.QueuePairs = n
	default:
		return failure.New(failure.Usage, "--network: unknown option %q: ip, mac or queues", option)
	}
	return nil
}

// parseWishes reads what --network says for a VM from a snapshot.
func parseWishes(list []string) ([]restore.Wish, error) {
	var out []restore.Wish
	for _, s := range list {
		w, err := restore.ParseWish(s)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// parseMoves reads what --network says of a VM that is started: the words of one
// from a snapshot, or of a new one.
func parseMoves(list []string) ([]restore.Wish, error) {
	var out []restore.Wish
	for _, s := range list {
		if name, _, _ := strings.Cut(s, ","); !strings.Contains(name, "=") && !slices.Contains([]string{restore.Keep, restore.Fresh, restore.None}, name) {
			r, err := parseNetwork(s)
			if err != nil {
				return nil, err
			}
			out = append(out, restore.Wish{How: restore.Join, Wanted: r})
			continue
		}
		w, err := restore.ParseWish(s)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

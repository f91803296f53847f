package house

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/restore"
)

// ParseDisks parses the values of --disk for a new VM.
func ParseDisks(list []string) ([]vm.DiskSpec, error) {
	var out []vm.DiskSpec
	for _, s := range list {
		d, err := parseDisk(s)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func parseDisk(s string) (vm.DiskSpec, error) {
	path, rest, _ := strings.Cut(s, ",")
	d := vm.DiskSpec{Path: path}
	if path == "" {
		return d, failure.New(failure.Usage, "%s %q names no file", hint.Disks, s)
	}
	for _, o := range strings.Split(rest, ",") {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "":
		case "readonly":
			if d.Readonly = v == "" || v == "on" || v == "true"; !d.Readonly && v != "off" && v != "false" {
				return d, failure.New(failure.Usage, "%s %q: readonly, or readonly=on or off", hint.Disks, s)
			}
		case "size":
			n, err := config.ParseSize(hint.Disks.Of()+" size", v)
			if err != nil {
				return d, err
			}
			d.Bytes = n
		default:
			return d, failure.New(failure.Usage, "%s %q: unknown option %q", hint.Disks, s, k)
		}
	}
	return d, nil
}

// ParseNetworks parses the values of --network for a new VM.
func ParseNetworks(list []string) ([]network.Request, error) {
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
		return nil, failure.New(failure.Usage, "%s none goes with no other network", hint.Networks)
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
		return r, failure.New(failure.Usage, "%s %s goes with %s", hint.Networks, name, hint.FromSnapshot)
	case name == "" || strings.Contains(name, "=") || name == network.Tap || name == network.Unplugged:
		return r, failure.New(failure.Usage, "%s %q: none, tap=NAME or the name of a CNI network", hint.Networks, s)
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
			return failure.New(failure.Usage, "%s ip=%s: no address", hint.Networks, v)
		}
		r.IPs = append(r.IPs, ip)
	case "mac":
		r.MAC = strings.ToLower(v)
	case "queues":
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return failure.New(failure.Usage, "%s queues=%s: the number of queue pairs", hint.Networks, v)
		}
		r.QueuePairs = n
	default:
		return failure.New(failure.Usage, "%s: unknown option %q: ip, mac or queues", hint.Networks, option)
	}
	return nil
}

// ParseWishes parses the values of --network for a VM from a snapshot.
func ParseWishes(list []string) ([]restore.Wish, error) {
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

// ParseMoves parses the values of --network for a VM that is started: those for a
// VM from a snapshot, or for a new one.
func ParseMoves(list []string) ([]restore.Wish, error) {
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

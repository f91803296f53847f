package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func (h Host) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(h.pluginDirs(), filepath.Join(h.CacheDir, "cni"), &pluginExec{})
}

// runtimeConf passes the MAC and addresses both ways: old IPAM plugins read
// CNI_ARGS, others only what their conflist declares as a capability. Without
// IgnoreUnknown, plugins refuse arguments that are not theirs, on DEL as well.
func runtimeConf(r Request, a Attachment) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: a.VM, NetNS: a.Netns, IfName: a.Ifname,
		Args: [][2]string{{"IgnoreUnknown", "1"}}, CapabilityArgs: map[string]any{},
	}
	if len(r.IPs) > 0 {
		ips := make([]string, len(r.IPs))
		for i, ip := range r.IPs {
			ips[i] = ip.String()
		}
		rt.Args = append(rt.Args, [2]string{"IP", ips[0]}) // host-local parses one address
		rt.CapabilityArgs["ips"] = ips
	}
	if r.MAC != "" {
		rt.Args = append(rt.Args, [2]string{"MAC", r.MAC})
		rt.CapabilityArgs["mac"] = r.MAC
	}
	return rt
}

// add runs the plugins and fills rec.Attachment with their result.
func (h Host) add(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	if err := healBridges(list); err != nil {
		return err
	}
	if err := h.del(ctx, rec, list); err != nil {
		return err
	}
	asking, err := askForAll(list, rec.Request)
	if err != nil {
		return err
	}
	answer, err := h.cni().AddNetworkList(ctx, asking, runtimeConf(rec.Request, rec.Attachment))
	if err != nil {
		return classify(ctx, rec.Request, list.Bytes, err)
	}
	result, err := types100.GetResult(answer)
	if err != nil {
		return fmt.Errorf("result of the plugins: %w", err)
	}
	return take(rec, result)
}

// askForAll writes two or more requested addresses into the configuration:
// host-local takes only one by CNI_ARGS, and capabilities may not be declared.
func askForAll(list *libcni.NetworkConfigList, r Request) (*libcni.NetworkConfigList, error) {
	if len(r.IPs) < 2 {
		return list, nil
	}
	out := *list
	out.Plugins = slices.Clone(list.Plugins)
	for i, p := range out.Plugins {
		if p.Network.IPAM.Type == "" {
			continue
		}
		asking, err := libcni.InjectConf(p, map[string]any{"args": map[string]any{"cni": map[string]any{"ips": r.IPs}}})
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", p.Network.Type, err)
		}
		out.Plugins[i] = asking
	}
	return &out, nil
}

// take copies a result into the attachment and compares it with the request.
func take(rec *record, result *types100.Result) error {
	a := &rec.Attachment
	a.IPs, a.Gateways = nil, nil
	for _, c := range result.IPs {
		if c == nil {
			return errors.New("result of the plugins: an address is null")
		}
		p := prefixOf(c.Address)
		if !p.IsValid() {
			return fmt.Errorf("result of the plugins: address %v", c.Address)
		}
		a.IPs = append(a.IPs, p)
		if gw, ok := netip.AddrFromSlice(c.Gateway); ok {
			a.Gateways = append(a.Gateways, gw.Unmap())
		}
	}
	for _, want := range rec.Request.IPs {
		if !slices.ContainsFunc(a.IPs, func(p netip.Prefix) bool { return p.Addr() == want }) {
			return failure.Hint(failure.New(failure.Incompatible, "wanted address %s, its IPAM gave %v", want, a.IPs),
				`use the host-local IPAM, declare "capabilities":{"ips":true} in the conflist, or choose a fresh identity`)
		}
	}
	return nil
}

// prefixOf returns an address with its length; one of IPv4 may be written as
// IPv6. It is invalid if the two do not match.
func prefixOf(n net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if ip.Is4In6() && bits == 128 {
		ones -= 96
	}
	return netip.PrefixFrom(ip.Unmap(), ones)
}

// del undoes what the plugins did, or may have done, for an interface.
func (h Host) del(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	if list == nil { // Unplugged
		return nil
	}
	rt, lost, err := h.delConf(rec)
	if err != nil {
		return err
	}
	if lost && h.delStandIn(ctx, rec, list) == nil {
		return nil
	}
	if err := h.cni().DelNetworkList(ctx, list, rt); err != nil {
		return failure.Hint(fmt.Errorf("plugins could not undo: %w", err), "fix what the plugin reports and repeat the command")
	}
	return nil
}

// delEach is del for an ADD that failed half-way: a plugin that cannot undo what
// it never did must not keep the others from undoing their part.
func (h Host) delEach(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	whole := h.del(ctx, rec, list)
	if whole == nil {
		return nil
	}
	rt, _, err := h.delConf(rec)
	if err != nil {
		return err
	}
	undone := 0
	for _, p := range slices.Backward(list.Plugins) {
		one := *list
		one.Plugins = []*libcni.PluginConfig{p}
		if h.cni().DelNetworkList(ctx, &one, rt) == nil {
			undone++
		}
	}
	if undone == 0 {
		return whole
	}
	return nil
}

// delConf names the netns only if it is that of the VM: plugins delete the
// interface in it, and accept "" for one that is gone. lost means that it is gone
// and its name is unused.
func (h Host) delConf(rec *record) (rt *libcni.RuntimeConf, lost bool, err error) {
	rt = runtimeConf(rec.Request, rec.Attachment)
	owner, err := h.ownerOf(rt.NetNS)
	lost = errors.Is(err, errStale) || errors.Is(err, fs.ErrNotExist)
	if err != nil && !lost {
		return nil, false, err
	}
	if owner != rec.Attachment.VM {
		rt.NetNS = ""
	}
	return rt, lost, nil
}

// classify gives a failed ADD its class and remedy. The texts are those of the
// host-local plugin, 1.1 to 1.9.
func classify(ctx context.Context, r Request, config []byte, err error) error {
	text := err.Error()
	switch {
	case ctx.Err() != nil:
		return errors.Join(ctx.Err(), err)
	case len(r.IPs) > 0 && strings.Contains(text, "not available in range set"):
		for _, ip := range r.IPs {
			if id := leaseHolder(config, r.Network, ip); id != "" {
				err = fmt.Errorf("address %s is leased by %s: %w", ip, id, err)
			}
		}
		return failure.Hint(failure.Wrap(failure.Conflict, err), "another container or VM leases the address: remove it, or choose a fresh identity")
	case len(r.IPs) > 0 && strings.Contains(text, "failed to allocate all requested IPs"):
		return failure.Hint(failure.Wrap(failure.Incompatible, err), "the address is outside the ranges of the conflist: choose a fresh identity or another network")
	case strings.Contains(text, "no IP addresses available"):
		return failure.Hint(failure.Wrap(failure.Conflict, err), "remove VMs, or widen the range in the conflist")
	}
	return failure.Hint(err, "the message is the plugin's: see the conflist and the plugin's manual")
}

// healBridges gives a bridge without ports and MAC a MAC: a failed first ADD
// leaves it in this state, in which every later ADD fails too
// (containernetworking/plugins#620).
func healBridges(list *libcni.NetworkConfigList) error {
	for _, name := range bridges(list) {
		link, err := netlink.LinkByName(name)
		if err != nil || !isZero(link.Attrs().HardwareAddr) {
			continue
		}
		if err := netlink.LinkSetHardwareAddr(link, randomMAC()); err != nil {
			return fmt.Errorf("give bridge %s a MAC: %w", name, err)
		}
	}
	return nil
}

// randomMAC returns a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac) // never fails: crypto/rand aborts the process instead
	mac[0] = mac[0]&^1 | 2
	return mac
}

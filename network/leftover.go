package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// Leftover is what stands for a VM that does not live any more.
type Leftover struct {
	VM      string   `json:"vm"`              // id; only its first 12 digits when no more is known
	Netns   string   `json:"netns,omitempty"` // path, "" when there is none
	Ifnames []string `json:"ifnames"`         // with a record
}

// Leftovers lists, in the order of their ids, the netns and records of VMs that
// are not in live. The caller knows live while no Attach of another VM can run.
func (h Host) Leftovers(live []string) ([]Leftover, error) {
	left := map[string]*Leftover{}
	of := func(vm string) *Leftover {
		if left[vm] == nil {
			left[vm] = &Leftover{VM: vm}
		}
		return left[vm]
	}
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.Contains(live, n[0]) {
			l := of(n[0])
			l.Ifnames = append(l.Ifnames, n[1])
		}
	}
	owners, err := h.owners()
	if err != nil {
		return nil, err
	}
	for path, vm := range owners {
		switch {
		case !isID(vm) || slices.ContainsFunc(live, func(l string) bool { return l == vm || len(vm) == idDigits && strings.HasPrefix(l, vm) }):
		default:
			of(vm).Netns = path
		}
	}
	out := make([]Leftover, 0, len(left))
	for _, l := range left {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Leftover) int { return strings.Compare(a.VM, b.VM) })
	return out, nil
}

// owners maps each netns with our prefix to the VM that it was made for; one
// with no namespace behind it to the digits of its name.
func (h Host) owners() (map[string]string, error) {
	entries, err := os.ReadDir(h.netnsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range entries {
		digits, ours := strings.CutPrefix(e.Name(), netnsPrefix)
		if !ours || len(digits) != idDigits || !isID(digits) {
			continue
		}
		path := filepath.Join(h.netnsDir(), e.Name())
		vm, err := ownerOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errStale):
			out[path] = digits
		case err != nil:
			return nil, err
		default:
			out[path] = vm
		}
	}
	return out, nil
}

// Remove undoes a leftover: the plugins of every record, and the netns. It is
// failure.Conflict while a process has a TAP of it open.
func (h Host) Remove(ctx context.Context, l Leftover) error {
	if !isID(l.VM) || l.Netns != "" && l.Netns != h.netnsPath(l.VM) {
		return failure.New(failure.Usage, "leftover of VM %q in netns %q", l.VM, l.Netns)
	}
	for i := range MaxInterfaces {
		if err := h.refuseInUse(h.netnsPath(l.VM), l.VM, tapName(i)); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range l.Ifnames {
		rec, err := h.read(l.VM, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, failure.Damaged):
			errs = append(errs, h.removeDamaged(ctx, l.VM, name, err))
		case err != nil:
			errs = append(errs, err)
		default:
			errs = append(errs, h.Detach(ctx, rec.Attachment))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the network of VM %s: %w", l.VM, err)
	}
	return h.removeNetns(l.VM)
}

// removeDamaged undoes what libcni cached for an interface with a torn record.
// With neither there is no telling what the plugins did; the record stays then.
func (h Host) removeDamaged(ctx context.Context, vm, ifname string, damage error) error {
	cached, err := h.cni().GetCachedAttachments(vm)
	if err != nil {
		return err
	}
	for _, c := range cached {
		if c.IfName == ifname {
			return h.Detach(ctx, Attachment{VM: vm, Network: c.Network, Netns: h.netnsPath(vm), Ifname: ifname, Tap: "tap" + strings.TrimPrefix(ifname, "eth")})
		}
	}
	return failure.Hint(damage, "remove the leases of "+vm+" by hand, then this file")
}

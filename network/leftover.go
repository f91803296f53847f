package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Leftover is what is left on the network for a VM that no longer exists.
type Leftover struct {
	VM      string   `json:"vm"`              // id
	Netns   string   `json:"netns,omitempty"` // path, "" when there is none
	Ifnames []string `json:"ifnames"`         // with a record
	Owner   string   `json:"owner,omitempty"` // the owning store, if another one: then only the records can go
}

// Leftovers lists, ordered by id, the VMs with a record that are not in live. A
// netns without a record is never one: it belongs to another store, since the
// record is made before the netns and removed after it. The caller determines
// live while no Attach of another VM can run.
func (h Host) Leftovers(live []string) ([]Leftover, error) {
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	left := map[string]*Leftover{}
	for _, n := range names {
		vm := n[0]
		if slices.Contains(live, vm) {
			continue
		}
		if left[vm] == nil {
			left[vm] = &Leftover{VM: vm}
			if left[vm].Owner, err = h.foreign(vm, h.owns); err != nil {
				return nil, err
			}
			if left[vm].Netns, err = h.netnsOf(vm); err != nil {
				return nil, err
			}
		}
		left[vm].Ifnames = append(left[vm].Ifnames, n[1])
	}
	out := make([]Leftover, 0, len(left))
	for _, l := range left {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Leftover) int { return strings.Compare(a.VM, b.VM) })
	return out, nil
}

// Attached lists the ids of all VMs with a record.
func (h Host) Attached() ([]string, error) {
	names, err := h.names()
	var out []string
	for _, n := range names {
		out = append(out, n[0])
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// netnsOf returns the path of a VM's netns, even if no namespace is behind the
// name; "" if there is none or it belongs to another store.
func (h Host) netnsOf(vm string) (string, error) {
	path := h.netnsPath(vm)
	owner, err := h.ownerOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil && !errors.Is(err, errStale):
		return "", err
	case err == nil && owner != vm:
		return "", nil
	}
	return path, nil
}

// RemoveVM undoes the whole network of a VM, whatever its records say. If there
// is none, that is success. Of a network of another store only the records are
// removed.
func (h Host) RemoveVM(ctx context.Context, vm string) error {
	if h.CacheDir == "" {
		return nil
	}
	if !isID(vm) {
		return failure.New(failure.Usage, "network of VM %q: no id", vm)
	}
	names, err := h.recordNames(vm)
	if err != nil || len(names) == 0 {
		return err
	}
	if who, err := h.foreign(vm, h.inherits); err != nil {
		return err
	} else if who != "" {
		return h.dropRecords(vm)
	}
	return h.Remove(ctx, Leftover{VM: vm, Ifnames: names})
}

// ForgetVM drops the network of a VM whose plugins cannot undo it: TAPs, netns,
// libcni's cache and the records. What the plugins keep elsewhere, such as the
// lease of a DHCP server, stays. failure.Conflict while a process has one of its
// TAPs open.
func (h Host) ForgetVM(_ context.Context, vm string) error {
	if h.CacheDir == "" || !isID(vm) {
		return failure.New(failure.Usage, "network of VM %q: no id, or no folder for the records", vm)
	}
	if err := h.refuseInUse(h.netnsPath(vm), vm); err != nil {
		return err
	}
	if err := h.removeNetns(vm); err != nil && !errors.Is(err, failure.Conflict) { // that of somebody else
		return fmt.Errorf("forget the network of VM %s: %w", vm, err)
	}
	return h.dropRecords(vm)
}

// Remove undoes a leftover: the plugins of every record, and the netns. It is
// failure.Conflict while a process has a TAP of it open.
func (h Host) Remove(ctx context.Context, l Leftover) error {
	if l.Owner != "" {
		return h.dropRecords(l.VM)
	}
	if !isID(l.VM) || l.Netns != "" && l.Netns != h.netnsPath(l.VM) {
		return failure.New(failure.Usage, "leftover of VM %q in netns %q", l.VM, l.Netns)
	}
	if err := h.refuseInUse(h.netnsPath(l.VM), l.VM); err != nil {
		return err
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
	return nil
}

// removeDamaged undoes what libcni cached for an interface with a damaged record.
// With neither it is unknown what the plugins did; then the record stays.
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

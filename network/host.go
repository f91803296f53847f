package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/containernetworking/cni/libcni"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// Patience limits the wait for a process; 0 is thirty seconds.
type Patience = patience.Patience

// Mark says which store made something; the zero value names none.
type Mark = owner.Mark

// Host holds the paths. The zero value of each field but CacheDir is the usual
// place.
type Host struct {
	// CacheDir holds the records and libcni's results, and is used by nothing
	// else. It must survive a reboot, as the leases of IPAM plugins do.
	CacheDir   string
	ConfDirs   []string // of conflists; /etc/cni/net.d
	PluginDirs []string // /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni
	NetnsDir   string   // /var/run/netns, where `ip netns` looks
	// Owner is the store's mark on everything made here; the zero value marks
	// nothing.
	Owner Mark
	// Patience limits every wait for a process: a plugin that undoes, a VMM that
	// has been killed, another command.
	Patience Patience
}

func (h Host) confDirs() []string {
	if len(h.ConfDirs) > 0 {
		return h.ConfDirs
	}
	return []string{"/etc/cni/net.d"}
}

func (h Host) pluginDirs() []string {
	if len(h.PluginDirs) > 0 {
		return h.PluginDirs
	}
	return []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
}

func (h Host) netnsDir() string {
	if h.NetnsDir != "" {
		return h.NetnsDir
	}
	return "/var/run/netns"
}

// Attach makes one interface of a VM and returns when its TAP is up; on error
// nothing is left. What an earlier Attach of the same interface left is undone
// first, so it also repairs a network after a reboot or a crash. The interfaces
// of one VM are attached one after the other, several VMs in parallel.
//
// Classes: failure.Usage for an impossible request or conflist, failure.NotFound
// for a missing conflist, plugin or TAP, failure.Conflict for a MAC, address, TAP
// or netns in use, failure.Incompatible for a network that cannot provide what is
// requested and for a kernel without a feature.
func (h Host) Attach(ctx context.Context, r Request) (*Attachment, error) {
	if r.Network == "" {
		r.Network = None
	}
	if r.Identity == "" {
		r.Identity = Keep
	}
	r.QueuePairs = max(r.QueuePairs, 1)
	if err := r.check(); err != nil {
		return nil, err
	}
	switch r.Network {
	case None:
		return &Attachment{VM: r.VM, Index: r.Index, Network: None}, nil
	case Tap:
		return adopt(r)
	}
	if h.CacheDir == "" {
		return nil, failure.New(failure.Usage, "network %s: no folder for the records", r.Network)
	}
	conf := &conflist{}
	if r.Network != Unplugged {
		var err error
		if conf, err = h.find(r.Network); err != nil {
			return nil, err
		}
	}
	if err := h.CheckOwner(r.VM); err != nil { // before a DEL or ADD under the id that both stores have
		return nil, err
	}
	if err := h.undoEarlier(ctx, r); err != nil {
		return nil, err
	}
	rec := newRecord(h, r, conf)
	if err := h.claim(ctx, rec); err != nil {
		return nil, err
	}
	durable.Step("network.claimed")
	if err := h.build(ctx, rec, conf.list); err != nil {
		return nil, fmt.Errorf("attach VM %s to network %s: %w", r.VM, r.Network, errors.Join(err, h.rollback(ctx, rec, conf.list)))
	}
	a := rec.Attachment
	return &a, nil
}

// build fills rec.Attachment. A nil list is Unplugged.
func (h Host) build(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	a := &rec.Attachment
	if _, err := h.ensureNetns(a.VM); err != nil {
		return err
	}
	durable.Step("network.netns")
	if list == nil {
		if err := InNetns(a.Netns, func() error { return unplugged(a) }); err != nil {
			return err
		}
		return h.write(rec)
	}
	if err := h.add(ctx, rec, list); err != nil {
		return err
	}
	durable.Step("network.added")
	err := InNetns(a.Netns, func() error {
		if err := wire(rec.Request, a); err != nil {
			return err
		}
		return announceOutside(*a)
	})
	if err != nil {
		return err
	}
	return h.write(rec)
}

func (h Host) rollback(ctx context.Context, rec *record, list *libcni.NetworkConfigList) error {
	ctx, cancel := patience.Bound(context.WithoutCancel(ctx), h.Patience.Call()) // a cancelled context must not interrupt it
	defer cancel()
	if err := errors.Join(h.delEach(ctx, rec, list), h.removeWires(rec.Attachment)); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return h.forget(rec.Attachment)
}

// undoEarlier detaches what a record of the same interface names.
func (h Host) undoEarlier(ctx context.Context, r Request) error {
	rec, err := h.read(r.VM, ifname(r.Index))
	if errors.Is(err, fs.ErrNotExist) {
		return h.refuseInUse(h.netnsPath(r.VM), r.VM, tapName(r.Index))
	}
	if errors.Is(err, failure.Incompatible) {
		return err // what a newer version made is unknown
	}
	if err != nil {
		rec = &record{Attachment: Attachment{VM: r.VM, Index: r.Index, Network: r.Network, Netns: h.netnsPath(r.VM), Ifname: ifname(r.Index), Tap: tapName(r.Index)}}
	}
	if err := h.refuseInUse(rec.Attachment.Netns, r.VM, rec.Attachment.Tap); err != nil {
		return err
	}
	if err := h.Detach(ctx, rec.Attachment); err != nil {
		return fmt.Errorf("undo the earlier attachment: %w", err)
	}
	return nil
}

// Detach undoes an attachment: plugins, TAP, and with the last TAP the netns.
// What is already gone is success, so it may be repeated; on error the record
// stays for the next try. The VMM must have ended.
func (h Host) Detach(ctx context.Context, a Attachment) error {
	if a.Network == "" || a.Network == None || a.Network == Tap {
		return nil
	}
	if !isID(a.VM) || a.Ifname == "" || a.Netns != h.netnsPath(a.VM) {
		return failure.New(failure.Usage, "detach VM %q: %s in netns %q is no attachment of it", a.VM, a.Ifname, a.Netns)
	}
	rec, list, err := h.lastKnown(a)
	if err == nil && !h.inherits(rec.Owner) {
		err = notOurs(a.VM, rec.Owner)
	}
	if err != nil {
		return fmt.Errorf("detach VM %s from network %s: %w", a.VM, a.Network, err)
	}
	if err := h.del(ctx, rec, list); err != nil {
		return fmt.Errorf("detach VM %s from network %s: %w", a.VM, a.Network, errors.Join(err, h.removeWires(a)))
	}
	durable.Step("network.deleted")
	if err := h.removeWires(a); err != nil {
		return fmt.Errorf("detach VM %s from network %s: %w", a.VM, a.Network, err)
	}
	durable.Step("network.unwired")
	return h.forget(a)
}

func ifname(index int) string  { return "eth" + strconv.Itoa(index) }
func tapName(index int) string { return "tap" + strconv.Itoa(index) }

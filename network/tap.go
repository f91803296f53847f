package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// makeTap makes a persistent TAP in the netns of the thread, down. Its flags must
// match those the VMM opens it with, or the VMM gets EINVAL: Cloud Hypervisor
// sets IFF_MULTI_QUEUE for more than one queue pair only.
func makeTap(name string, mtu, queuePairs int) (netlink.Link, error) {
	if err := dropLink(name); err != nil {
		return nil, err
	}
	flags := netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR
	if queuePairs > 1 {
		flags |= netlink.TUNTAP_MULTI_QUEUE
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: flags, Queues: 1}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	for _, f := range tap.Fds {
		f.Close() // the TAP persists
	}
	if err := netlink.LinkSetMTU(tap, mtu); err != nil {
		return nil, fmt.Errorf("set MTU %d of TAP %s: %w", mtu, name, err)
	}
	return netlink.LinkByName(name)
}

// dropLink removes a device of the thread's netns if it is there.
func dropLink(name string) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// opened reports whether a process has the TAP open: only then it has a carrier.
func opened(link netlink.Link) bool { return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }

// adopt uses a TAP of the operator, who keeps it: Detach leaves it alone.
func adopt(r Request) (*Attachment, error) {
	bad := func(class error, hint, format string, args ...any) error {
		return failure.Hint(failure.New(class, "TAP %s: %s", r.Tap, fmt.Sprintf(format, args...)), hint)
	}
	link, err := netlink.LinkByName(r.Tap)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, bad(failure.NotFound, "ip tuntap add "+r.Tap+" mode tap vnet_hdr", "there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("TAP %s: %w", r.Tap, err)
	}
	flags, err := tunFlags(r.Tap)
	switch {
	case err != nil || flags&unix.IFF_TAP == 0:
		return nil, bad(failure.Usage, "name a TAP", "it is another kind of device")
	case opened(link):
		return nil, bad(failure.Conflict, "stop the VM that uses it, or name another TAP", "a process has it open")
	case (flags&unix.IFF_MULTI_QUEUE != 0) != (r.QueuePairs > 1):
		return nil, bad(failure.Incompatible, "make it with multi_queue exactly when the VM has more than one queue pair",
			"multi queue is %t, the VM has %d queue pairs", flags&unix.IFF_MULTI_QUEUE != 0, r.QueuePairs)
	case r.MTU > link.Attrs().MTU:
		return nil, tooSmall(r, link.Attrs().MTU)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set TAP %s up: %w", r.Tap, err)
	}
	a := &Attachment{
		VM: r.VM, Index: r.Index, Network: Tap, Tap: r.Tap, MAC: r.MAC,
		MTU: link.Attrs().MTU, QueuePairs: r.QueuePairs, Identity: Keep,
	}
	for _, ip := range r.IPs {
		p, err := ip.Prefix(ip.BitLen())
		if err != nil {
			return nil, err
		}
		a.IPs = append(a.IPs, p)
	}
	return a, nil
}

func tunFlags(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", name, "tun_flags"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 0, 32)
	return int(n), err
}

func tooSmall(r Request, mtu int) error {
	return failure.Hint(failure.New(failure.Incompatible, "network %s has MTU %d, the guest sends up to %d bytes", r.Network, mtu, r.MTU),
		"raise the MTU in the conflist or of the TAP, or choose another network")
}

// refuseInUse is failure.Conflict while a process has a TAP of the VM open; no
// names means any. A caller that killed the VMM has waited until the last of its
// threads was gone, so this waits only briefly. A missing netns, or one of
// another VM, has no TAP of it.
func (h Host) refuseInUse(path, vm string, taps ...string) error {
	if owner, err := h.ownerOf(path); err != nil || owner != vm {
		return nil
	}
	for end := time.Now().Add(h.Patience.Glance()); ; time.Sleep(2 * time.Millisecond) {
		tap, err := openTapOf(path, taps)
		if err != nil || tap == "" {
			return err
		}
		if time.Now().After(end) {
			return failure.Hint(failure.New(failure.Conflict, "TAP %s in netns %s is in use by a process", tap, path), "stop the VM "+vm)
		}
	}
}

func openTapOf(path string, taps []string) (name string, err error) {
	err = InNetns(path, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			_, tap := l.(*netlink.Tuntap)
			if tap && opened(l) && (len(taps) == 0 || slices.Contains(taps, l.Attrs().Name)) {
				name = l.Attrs().Name
			}
		}
		return err
	})
	return name, err
}

// removeWires removes the TAP of an attachment, and the netns with the last.
func (h Host) removeWires(a Attachment) error {
	owner, err := h.ownerOf(a.Netns)
	if err != nil {
		return h.removeNetns(a.VM) // gone or stale
	}
	if owner != a.VM {
		return nil // the name was taken meanwhile: nothing in there is ours
	}
	last := true
	err = InNetns(a.Netns, func() error {
		if err := dropLink(a.Tap); err != nil {
			return err
		}
		links, err := netlink.LinkList()
		for _, l := range links {
			_, tap := l.(*netlink.Tuntap)
			last = last && !tap
		}
		return err
	})
	if err != nil || !last {
		return err
	}
	return h.removeNetns(a.VM)
}

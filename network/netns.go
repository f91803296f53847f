package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

const (
	netnsPrefix = "cocoon-"
	idDigits    = 12 // of the VM's id in the name of its netns
)

// errStale is a name in the netns folder without a mounted namespace: a crash
// between making the two leaves it.
var errStale = errors.New("no namespace is mounted there")

func isID(s string) bool {
	return len(s) >= idDigits && strings.Trim(s, "0123456789abcdef") == ""
}

func (h Host) netnsPath(vm string) string {
	return filepath.Join(h.netnsDir(), netnsPrefix+vm[:idDigits])
}

// storeMark begins the alternative name of the loopback in a netns of ours; the
// tag of its store follows. The alias names the VM, which is not enough since a
// copied store has the same VMs.
const storeMark = "cocoon-store-"

// ownerOf returns the id of the VM that the netns at path was made for, "" if it
// is not one of ours, and a value that is no id if it belongs to another store.
// errStale or fs.ErrNotExist if there is none.
func (h Host) ownerOf(path string) (vm string, err error) {
	var tag string
	err = InNetns(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		vm = lo.Attrs().Alias
		for _, name := range lo.Attrs().AltNames {
			if t, ok := strings.CutPrefix(name, storeMark); ok {
				tag = t
			}
		}
		return nil
	})
	if !isID(vm) {
		return "", err
	}
	if err == nil && !h.hasTag(vm, tag) {
		vm += " of another store"
	}
	return vm, err
}

// ensureNetns makes the netns of a VM, or finds it. A stale name is repaired; a
// foreign netns under the name is failure.Conflict.
func (h Host) ensureNetns(vm string) (string, error) {
	path := h.netnsPath(vm)
	unlock, err := h.lockNetnsDir()
	if err != nil {
		return "", fmt.Errorf("make netns %s: %w", path, err)
	}
	defer unlock()
	owner, err := h.ownerOf(path)
	switch {
	case err == nil && owner == vm:
		return path, h.retag(path)
	case err == nil:
		return "", taken(path, owner)
	case errors.Is(err, errStale):
		if err := os.Remove(path); err != nil {
			return "", fmt.Errorf("repair netns: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if err := makeNetns(path, vm, h.tag()); err != nil {
		return "", fmt.Errorf("make netns %s: %w", path, errors.Join(err, dropNetns(path)))
	}
	return path, nil
}

func taken(path, owner string) error {
	who := "something that is not cocoon"
	if owner != "" {
		who = "VM " + owner
	}
	return failure.Hint(failure.New(failure.Conflict, "netns %s belongs to %s", path, who),
		"if nothing uses it: ip netns del "+filepath.Base(path))
}

// removeNetns removes the netns of a VM; one that is gone is success, a foreign
// one is failure.Conflict.
func (h Host) removeNetns(vm string) error {
	path := h.netnsPath(vm)
	unlock, err := h.lockNetnsDir()
	if err != nil {
		return err
	}
	defer unlock()
	owner, err := h.ownerOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errStale), err == nil && owner == vm:
		return dropNetns(path)
	case err == nil:
		return taken(path, owner)
	default:
		return err
	}
}

// makeNetns names the namespace only after marking it as ours.
func makeNetns(path, vm, tag string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	home, err := ns.GetCurrentNS()
	if err != nil {
		return err
	}
	defer home.Close()
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := markAndMount(path, vm, tag)
		back := home.Set()
		if back == nil {
			runtime.UnlockOSThread() // else the runtime ends the thread with the goroutine
		}
		made <- errors.Join(err, back)
	}()
	return <-made
}

func markAndMount(path, vm, tag string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(lo, vm); err != nil {
		return err
	}
	if err := addTag(lo, tag); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// The devices to come must not speak IPv6 with the guest's MAC; a plugin that
	// assigns an IPv6 address enables it for its device itself.
	if err := sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return err
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
}

// addTag marks a netns with its store. Before Linux 5.5 there are no alternative
// names; then only the record shows the owner.
func addTag(lo netlink.Link, tag string) error {
	if tag == "" {
		return nil
	}
	err := netlink.LinkAddAltName(lo, storeMark+tag)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// retag marks as this store's a netns that belongs to it according to hasTag: one
// of an older program, or from before the store was moved.
func (h Host) retag(path string) error {
	return InNetns(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil || h.tag() == "" || slices.Contains(lo.Attrs().AltNames, storeMark+h.tag()) {
			return err
		}
		for _, name := range lo.Attrs().AltNames {
			if strings.HasPrefix(name, storeMark) {
				err = errors.Join(err, netlink.LinkDelAltName(lo, name))
			}
		}
		return errors.Join(err, addTag(lo, h.tag()))
	})
}

func dropNetns(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount netns %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove netns: %w", err)
	}
	return nil
}

// lockNetnsDir sets up the folder as `ip netns` does, as a shared mount, so that
// other mount namespaces see what is mounted below, and takes the same lock as
// `ip netns`.
func (h Host) lockNetnsDir() (unlock func(), err error) {
	dir := h.netnsDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	share := func() error { return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	if err = share(); errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("share %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

// openNetns distinguishes a missing and a stale name from other errors.
func openNetns(path string) (ns.NetNS, error) {
	n, err := ns.GetNS(path)
	var missing ns.NSPathNotExistErr
	var not ns.NSPathNotNSErr
	switch {
	case errors.As(err, &missing):
		return nil, &fs.PathError{Op: "open netns", Path: path, Err: fs.ErrNotExist}
	case errors.As(err, &not):
		return nil, fmt.Errorf("netns %s: %w", path, errStale)
	case err != nil:
		return nil, fmt.Errorf("netns %s: %w", path, err)
	}
	return n, nil
}

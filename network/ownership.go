package network

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// A copied store has the records of the original's attachments, and they name the
// netns and leases of guests that may run there. So a record names the store that
// wrote it, and a netns the one that made it. Only what this store made is
// undone, by plugins or in a netns; when a verb is used on a VM by name, also
// what was made by a store that is no longer where it was, that is, this one
// before it was moved. The rest belongs to another store, and only our copy of
// the record may be dropped. Things without a mark were made by an older program,
// and count as this store's.

// tag marks netns, "" if this store is unknown.
func (h Host) tag() string {
	if h.Owner.Store == "" {
		return ""
	}
	return h.Owner.Tag()
}

// hasTag: a netns of this VM with this tag is this store's.
func (h Host) hasTag(vm, tag string) bool {
	if tag == "" || tag == h.tag() {
		return true
	}
	recs, err := h.recordsOf(vm)
	return err == nil && slices.ContainsFunc(recs, func(r *record) bool { return r.Owner.Tag() == tag && h.inherits(r.Owner) })
}

func (h Host) owns(m owner.Mark) bool { return m.Store == "" || h.Owner.Owns(m) }

func (h Host) inherits(m owner.Mark) bool { return h.owns(m) || h.Owner.Inherits(m) }

// recordsOf are the records of a VM that can be read.
func (h Host) recordsOf(vm string) (recs []*record, err error) {
	names, err := h.names()
	for _, n := range names {
		if n[0] != vm {
			continue
		}
		if rec, err := h.read(vm, n[1]); err == nil {
			recs = append(recs, rec)
		}
	}
	return recs, err
}

// CheckOwner refuses a VM whose network belongs to another store:
// failure.Conflict.
func (h Host) CheckOwner(vm string) error {
	if h.CacheDir == "" {
		return nil
	}
	recs, err := h.recordsOf(vm)
	if err != nil {
		return err
	}
	for _, r := range recs {
		if !h.inherits(r.Owner) {
			return notOurs(vm, r.Owner)
		}
	}
	owner, err := h.ownerOf(h.netnsPath(vm))
	if err == nil && owner != vm {
		return taken(h.netnsPath(vm), owner)
	}
	return nil
}

func notOurs(vm string, m owner.Mark) error {
	return failure.Hint(failure.New(failure.Conflict, "the network of VM %s belongs to %s, of which this store is a copy", vm, m),
		"save it there and make another VM of the snapshot: "+hint.Clone.Of("REF"))
}

// foreign names the other store that owns the network of a VM, if any, by its
// first record.
func (h Host) foreign(vm string, mine func(owner.Mark) bool) (string, error) {
	recs, err := h.recordsOf(vm)
	if err != nil {
		return "", err
	}
	for _, r := range recs {
		if !mine(r.Owner) {
			return r.Owner.String(), nil
		}
	}
	return "", nil
}

// DropRecords forgets a VM whose network belongs to another store, without
// touching the network: only the copies of the records are ours.
func (h Host) DropRecords(_ context.Context, vm string) error {
	if h.CacheDir == "" || !isID(vm) {
		return failure.New(failure.Usage, "network of VM %q: no id, or no folder for the records", vm)
	}
	return h.dropRecords(vm)
}

// dropRecords removes the records of a VM and what libcni cached.
func (h Host) dropRecords(vm string) error {
	var errs []error
	for _, pattern := range []string{h.recordPath(vm, "*"), filepath.Join(h.CacheDir, "cni", "results", "*-"+vm+"-*")} {
		found, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, path := range found {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			errs = append(errs, durable.SyncDir(filepath.Dir(path)))
		}
	}
	return errors.Join(errs...)
}

// recordNames are the interfaces of a VM with a record, damaged ones included.
func (h Host) recordNames(vm string) ([]string, error) {
	found, err := filepath.Glob(h.recordPath(vm, "*"))
	var names []string
	for _, path := range found {
		_, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), ".")
		names = append(names, name)
	}
	return names, err
}

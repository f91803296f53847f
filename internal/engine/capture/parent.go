package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// Values of a request other than a snapshot whose pages may be reused.
const (
	autoParent = "auto" // the newest of the same origin; "" too
	noParent   = "none"
)

// asked: one was requested by name, which is never ignored silently.
func asked(parent string) bool { return parent != "" && parent != autoParent && parent != noParent }

// kin identifies snapshots that are alike: those of a VM, or those of a folder,
// which has no VM here and is identified by the name it was imported with.
type kin struct {
	vm, name string
	clonedOf store.ID // what the VM was made from, "" for none
	ramOf    bool     // its RAM is that of clonedOf, page by page, and not of a boot
}

func (k kin) made(s *index.Summary) bool {
	return s.VM.ID == k.vm && (k.vm != "" || s.VM.Name == k.name)
}

// trusts: a snapshot from elsewhere only claims to be of some VM, and its pages
// are reused for what it claims they hold. The disks of its clone were written
// from it and compared page by page; the RAM was not, if the VM booted. The
// parent of a folder is from elsewhere like the folder, and was requested.
func (k kin) trusts(sn *store.Snapshot) bool {
	return !sn.Foreign() || k.vm == "" || sn.ID == k.clonedOf && k.ramOf
}

func (c *session) kin() kin {
	return kin{vm: c.rec.ID, clonedOf: store.ID(c.rec.Snapshot), ramOf: c.rec.Restore != nil}
}

// findParent picks the snapshot whose pages may be reused: the named one, or the
// newest of this VM, or the one the VM was cloned from.
func (c *session) findParent(ctx context.Context) (err error) {
	c.parent, err = findParent(ctx, c.Store, c.req.Parent, c.kin(), c.note)
	return err
}

func findParent(ctx context.Context, st *store.Store, parent string, of kin, note func(string)) (*store.Snapshot, error) {
	switch {
	case parent == noParent:
		return nil, nil
	case asked(parent):
		id, err := st.Resolve(ctx, parent)
		if err != nil {
			return nil, err
		}
		return usable(ctx, st, id)
	}
	all, err := candidates(ctx, st, of)
	if err != nil {
		return nil, err
	}
	locked := map[string]bool{} // keys that are missing
	for _, c := range all {
		if locked[c.key] {
			continue
		}
		sn, err := usable(ctx, st, c.id)
		if keyring.IsMissing(err) {
			locked[c.key] = true
			note(fmt.Sprintf("no page of an older snapshot is reused: %v", err))
		}
		if err == nil && of.trusts(sn) {
			return sn, nil
		}
		if err != nil && !passedOver(err) {
			return nil, err
		}
	}
	return nil, nil
}

// holdParent holds the parent, nil for none, and every blob that it names now: a
// collector may move its pages, and reused pages must not vanish with the old
// packs. If it went away meanwhile that only costs speed, unless it was
// requested.
func holdParent(ctx context.Context, st *store.Store, lease *store.Lease, parent *store.Snapshot, wanted bool) (*store.Snapshot, error) {
	if parent == nil {
		return nil, nil
	}
	if err := lease.HoldSnapshot(ctx, parent.ID); err != nil {
		return nil, err
	}
	sn, err := lease.HoldEdges(ctx, parent.ID)
	if err == nil {
		err = contents.Of(st, sn).Unlock(ctx)
	}
	if err != nil && !wanted && passedOver(err) {
		return nil, nil
	}
	return sn, err
}

// candidate for a parent; key is "" if unknown.
type candidate struct {
	id  store.ID
	key string
}

// candidates are the snapshots of the same kin, newest first, then what the VM
// was made from.
func candidates(ctx context.Context, st *store.Store, of kin) (found []candidate, err error) {
	all, err := st.Index().Summaries(ctx) // oldest first
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Backward(all) {
		if of.made(&s) && s.State == store.Ready {
			found = append(found, candidate{s.ID, s.Key})
		}
	}
	if of.clonedOf != "" {
		found = append(found, candidate{id: of.clonedOf})
	}
	return found, nil
}

// usable returns a snapshot whose pages can be read.
func usable(ctx context.Context, st *store.Store, id store.ID) (*store.Snapshot, error) {
	sn, err := st.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := sn.Usable(); err != nil {
		return nil, err
	}
	return sn, contents.Of(st, sn).Unlock(ctx)
}

// passedOver: without a parent that was not requested only speed is lost.
func passedOver(err error) bool {
	return errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged) || keyring.IsMissing(err)
}

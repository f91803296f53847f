package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// What a request may say instead of a snapshot whose pages may be reused.
const (
	autoParent = "auto" // the newest of the same origin; "" too
	noParent   = "none"
)

// asked: for one by name, which is not passed over in silence.
func asked(parent string) bool { return parent != "" && parent != autoParent && parent != noParent }

// kin is whose snapshots look alike: those of a VM, or those of a folder, which
// has no VM here and goes by the name that it was imported with.
type kin struct {
	vm, name string
	clonedOf store.ID // what the VM was made of, "" for none
	ramOf    bool     // its RAM is that of clonedOf, page by page, and not of a boot
}

func (k kin) made(s *store.Summary) bool {
	return s.VM.ID == k.vm && (k.vm != "" || s.VM.Name == k.name)
}

// trusts: what came from elsewhere says itself of which VM it is, and its pages are
// reused for what it says that they hold. The disks of a clone were written of it
// page by page and compared; its RAM was not, if the VM booted. A folder's parent is
// from elsewhere as the folder is, and asked for.
func (k kin) trusts(sn *store.Snapshot) bool {
	return !sn.Foreign() || k.vm == "" || sn.ID == k.clonedOf && k.ramOf
}

func (c *session) kin() kin {
	return kin{vm: c.rec.ID, clonedOf: store.ID(c.rec.Snapshot), ramOf: c.rec.Restore != nil}
}

// findParent picks the snapshot whose pages may be reused: the named one, or
// the newest of this VM, or the one the VM was cloned from.
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
	locked := map[string]bool{} // keys that are not at hand
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

// holdParent keeps the parent, nil for none, and every blob that it names at this
// moment: a collector may give its pages new places, and pages that are reused must
// not go with the old ones. One that went away meanwhile only costs speed, unless it
// was asked for.
func holdParent(ctx context.Context, st *store.Store, lease *store.Lease, parent *store.Snapshot, wanted bool) (*store.Snapshot, error) {
	if parent == nil {
		return nil, nil
	}
	if err := lease.HoldSnapshot(ctx, parent.ID); err != nil {
		return nil, err
	}
	sn, err := lease.HoldEdges(ctx, parent.ID)
	if err == nil {
		err = st.Unlock(ctx, sn)
	}
	if err != nil && !wanted && passedOver(err) {
		return nil, nil
	}
	return sn, err
}

// candidate for a parent; key is "" where nothing is known of it.
type candidate struct {
	id  store.ID
	key string
}

// candidates are the snapshots of the same kin, newest first, then what the VM was
// made of.
func candidates(ctx context.Context, st *store.Store, of kin) (found []candidate, err error) {
	all, err := st.Summaries(ctx) // oldest first
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

// usable answers a snapshot whose pages can be read.
func usable(ctx context.Context, st *store.Store, id store.ID) (*store.Snapshot, error) {
	sn, err := st.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := sn.Usable(); err != nil {
		return nil, err
	}
	return sn, st.Unlock(ctx, sn)
}

// passedOver: only speed is lost without a parent that nobody asked for.
func passedOver(err error) bool {
	return errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged) || keyring.IsMissing(err)
}

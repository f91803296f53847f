package house

import (
	"context"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// OfItsOwn refuses, as failure.Conflict, to turn a VM into a snapshot of another
// VM, or one from elsewhere, which only claims to be of some VM: a slip in the
// second argument would cost the state of the first.
func (h *House) OfItsOwn(ctx context.Context, vmRef, snapshotRef string) error {
	rec, err := h.VMs.Get(ctx, vmRef)
	if err != nil {
		return err
	}
	id, err := h.Store.Resolve(ctx, snapshotRef)
	if err != nil {
		return err
	}
	sn, err := h.Store.Get(ctx, id)
	if err != nil {
		return err
	}
	if sn.Spec.VM.ID == rec.ID && !sn.Foreign() || h.descendsFrom(ctx, store.ID(rec.Snapshot), id) {
		return nil
	}
	what := fmt.Sprintf("snapshot %s is of VM %s, not of %s", snapshotRef, sn.Spec.VM.Name, rec.Name)
	if sn.Foreign() {
		what = fmt.Sprintf("snapshot %s %s: that it is of VM %s is what it says itself", snapshotRef, sn.Meta.Origin, sn.Spec.VM.Name)
	}
	return &NotItsOwnError{failure.New(failure.Conflict, "%s: the state that %s has would be lost", what, rec.Name)}
}

// NotItsOwnError is the refusal of OfItsOwn, which a caller may override.
type NotItsOwnError struct{ error }

// Unwrap gives the error with its class.
func (n *NotItsOwnError) Unwrap() error { return n.error }

// descendsFrom: id is what a VM was made from, or an ancestor of that. The parent
// of a snapshot from elsewhere is only its maker's claim.
func (h *House) descendsFrom(ctx context.Context, madeOf, id store.ID) bool {
	seen := map[store.ID]bool{}
	for at := madeOf; at != "" && !seen[at]; {
		if at == id {
			return true
		}
		seen[at] = true
		sn, err := h.Store.Get(ctx, at)
		if err != nil || sn.Foreign() {
			return false // beyond a gap the ancestry is unknown
		}
		at = sn.Spec.Parent
	}
	return false
}

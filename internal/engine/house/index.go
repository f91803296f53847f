package house

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/document"
)

// Holder is what holds blobs: a snapshot, a VM, a pin.
type Holder struct{ Kind, ID, Name string }

// eachHolder reads the files of all holders of blobs and images. After an error about
// an unreadable snapshot, others may follow.
func (h *House) eachHolder(ctx context.Context) iter.Seq2[heldBy, error] {
	return func(yield func(heldBy, error) bool) {
		for sn, err := range h.Store.List(ctx) {
			var e heldBy
			if err == nil {
				e = heldBy{Holder{"snapshot", string(sn.ID), sn.Meta.Name}, document.Edges(sn)}
			}
			if !yield(e, err) {
				return
			}
		}
		vms, err := h.VMs.List(ctx)
		if err != nil {
			yield(heldBy{}, err)
			return
		}
		for _, rec := range vms {
			if !yield(heldBy{Holder{"vm", rec.ID, rec.Name}, rec.Images}, nil) {
				return
			}
		}
	}
}

type heldBy struct {
	holder  Holder
	digests []digest.Digest
}

// Reindex makes refs.db anew, of the snapshots.
func (h *House) Reindex(ctx context.Context) error {
	if err := h.Store.Index().Rebuild(ctx); err != nil {
		return fmt.Errorf("rebuild refs.db: %w", err)
	}
	return nil
}

// IndexOK: an index that was never written is not damaged.
func (h *House) IndexOK(context.Context) error { return h.Store.Index().Check() }

// HeldBy returns the holders of a digest, from the files themselves: an image is
// removed by this answer, and no index decides that. With an error, there may be
// more holders.
func (h *House) HeldBy(ctx context.Context, d digest.Digest) (found []Holder, err error) {
	var errs []error
	for e, err := range h.eachHolder(ctx) {
		if err != nil {
			errs = append(errs, err)
		} else if slices.Contains(e.digests, d) {
			found = append(found, e.holder)
		}
	}
	pins, err := h.Images.Pins(ctx)
	errs = append(errs, err)
	for _, p := range pins {
		if p.Holds(d) {
			found = append(found, Holder{"pin", p.ID, p.Name})
		}
	}
	return found, errors.Join(errs...)
}

// Holders are the names of the holders of a digest.
func (h *House) Holders(ctx context.Context, d digest.Digest) ([]string, error) {
	found, err := h.HeldBy(ctx, d)
	var names []string
	for _, x := range found {
		names = append(names, holderName(x))
	}
	return names, err
}

func holderName(x Holder) string {
	if x.Name != "" {
		return fmt.Sprintf("%s %s (%s)", x.Kind, x.Name, x.ID)
	}
	return fmt.Sprintf("%s %s", x.Kind, x.ID)
}

package house

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// follow keeps refs.db up to date. The index is derived: a failure to write it is
// reported and never fails the operation, since nothing relies on it.
func (h *House) follow() {
	ramcache.Follow(h.Store)
	h.Store.OnCommit(func(ctx context.Context, sn *store.Snapshot) { h.behind(h.index.Record(ctx, snapshotEntry(sn))) })
	h.Store.OnRemove(func(ctx context.Context, id store.ID) {
		h.behind(h.index.Forget(ctx, refs.Holder{Kind: "snapshot", ID: string(id)}))
	})
}

func (h *House) behind(err error) {
	if err != nil {
		h.o.Log.Warn("refs.db is behind; "+hint.Reindex.Of()+" makes it again", "error", oneLine(err))
	}
}

// recordVMs enters VMs into the derived index; see follow.
func (h *House) recordVMs(ctx context.Context, recs ...*vm.Record) {
	var entries []refs.Entry
	for _, rec := range recs {
		entries = append(entries, vmEntry(rec))
	}
	h.behind(h.index.Record(ctx, entries...))
}

func snapshotEntry(sn *store.Snapshot) refs.Entry {
	return refs.Entry{Holder: refs.Holder{Kind: "snapshot", ID: string(sn.ID), Name: sn.Meta.Name}, Digests: store.Edges(sn)}
}

func vmEntry(rec *vm.Record) refs.Entry {
	return refs.Entry{Holder: refs.Holder{Kind: "vm", ID: rec.ID, Name: rec.Name}, Digests: rec.Images}
}

// entries reads the files from which the index is rebuilt. After an error about
// an unreadable snapshot, others may follow.
func (h *House) entries(ctx context.Context) iter.Seq2[refs.Entry, error] {
	return func(yield func(refs.Entry, error) bool) {
		for sn, err := range h.Store.List(ctx) {
			var e refs.Entry
			if err == nil {
				e = snapshotEntry(sn)
			}
			if !yield(e, err) {
				return
			}
		}
		vms, err := h.VMs.List(ctx)
		if err != nil {
			yield(refs.Entry{}, err)
			return
		}
		for _, rec := range vms {
			if !yield(vmEntry(rec), nil) {
				return
			}
		}
	}
}

// Reindex rebuilds refs.db from the manifests and records.
func (h *House) Reindex(ctx context.Context) error {
	if err := h.index.Rebuild(ctx, h.entries(ctx)); err != nil {
		return fmt.Errorf("rebuild refs.db: %w", err)
	}
	return nil
}

// IndexOK: an index that was never written is not damaged.
func (h *House) IndexOK(ctx context.Context) error {
	_, err := h.index.Generation(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// HeldBy returns the holders of a digest, from the files themselves: an index can
// be lost, lag behind, or have been locked when it should have been updated,
// without its answer showing it. With an error, there may be more holders.
func (h *House) HeldBy(ctx context.Context, d digest.Digest) (found []refs.Holder, err error) {
	var errs []error
	for e, err := range h.entries(ctx) {
		if err != nil {
			errs = append(errs, err)
		} else if slices.Contains(e.Digests, d) {
			found = append(found, e.Holder)
		}
	}
	pins, err := h.Images.Pins(ctx)
	errs = append(errs, err)
	for _, p := range pins {
		if p.Holds(d) {
			found = append(found, refs.Holder{Kind: "pin", ID: p.ID, Name: p.Name})
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

func holderName(x refs.Holder) string {
	if x.Name != "" {
		return fmt.Sprintf("%s %s (%s)", x.Kind, x.Name, x.ID)
	}
	return fmt.Sprintf("%s %s", x.Kind, x.ID)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/listing"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store"
)

// follow keeps refs.db in step. The index is derived: a failure to write it is
// told and never fails the command, since nobody takes its word for the truth.
func (a *app) follow(st *store.Store) {
	tell := func(err error) {
		if err != nil {
			a.log.Warn("refs.db is behind; cocoon refs --rebuild makes it again", "error", oneLine(err))
		}
	}
	st.OnCommit(func(ctx context.Context, sn *store.Snapshot) { tell(a.db.Record(ctx, snapshotEntry(sn))) })
	st.OnRemove(func(ctx context.Context, id store.ID) {
		tell(a.db.Forget(ctx, refs.Holder{Kind: "snapshot", ID: string(id)}))
	})
}

// forgetVM drops a VM from the derived index; see follow.
func (a *app) forgetVM(ctx context.Context, id string) {
	if err := a.db.Forget(ctx, vmHolder(id)); err != nil {
		a.errOut.Line("cocoon: warning: refs.db not updated: %s", oneLine(err))
	}
}

// recordVMs tells the derived index of VMs; see follow.
func (a *app) recordVMs(ctx context.Context, recs ...*vm.Record) {
	var entries []refs.Entry
	for _, rec := range recs {
		entries = append(entries, vmEntry(rec))
	}
	if err := a.db.Record(ctx, entries...); err != nil {
		a.errOut.Line("cocoon: warning: refs.db not updated: %s", oneLine(err))
	}
}

func snapshotEntry(sn *store.Snapshot) refs.Entry {
	return refs.Entry{Holder: refs.Holder{Kind: "snapshot", ID: string(sn.ID), Name: sn.Meta.Name}, Digests: store.Edges(sn)}
}

func vmEntry(rec *vm.Record) refs.Entry {
	return refs.Entry{Holder: refs.Holder{Kind: "vm", ID: rec.ID, Name: rec.Name}, Digests: rec.Images}
}

// entries reads the truth from which the index is rebuilt. A snapshot that cannot
// be read is an error, behind which others follow.
func (r *rooms) entries(ctx context.Context) iter.Seq2[refs.Entry, error] {
	return func(yield func(refs.Entry, error) bool) {
		for sn, err := range r.store.List(ctx) {
			var e refs.Entry
			if err == nil {
				e = snapshotEntry(sn)
			}
			if !yield(e, err) {
				return
			}
		}
		vms, err := r.vms.List(ctx)
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

// reindex rebuilds refs.db from the manifests and records.
func (a *app) reindex(ctx context.Context, r *rooms) error {
	if err := a.db.Rebuild(ctx, r.entries(ctx)); err != nil {
		return fmt.Errorf("rebuild refs.db: %w", err)
	}
	return nil
}

// heldBy answers who names a digest, from the truth itself: an index can be lost,
// behind, or locked when it should have been told, and its answer looks no other.
// Beside an error there may be more holders.
func (r *rooms) heldBy(ctx context.Context, d digest.Digest) (found []refs.Holder, err error) {
	var errs []error
	for e, err := range r.entries(ctx) {
		if err != nil {
			errs = append(errs, err)
		} else if slices.Contains(e.Digests, d) {
			found = append(found, e.Holder)
		}
	}
	return found, errors.Join(errs...)
}

// holders are the names of those who hold a digest.
func (r *rooms) holders(ctx context.Context, d digest.Digest) ([]string, error) {
	found, err := r.heldBy(ctx, d)
	var names []string
	for _, h := range found {
		names = append(names, holderName(h))
	}
	return names, err
}

func holderName(h refs.Holder) string {
	if h.Name != "" {
		return fmt.Sprintf("%s %s (%s)", h.Kind, h.Name, h.ID)
	}
	return fmt.Sprintf("%s %s", h.Kind, h.ID)
}

type holderRow struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

func newRefs(a *app) *cobra.Command {
	var o listing.Options
	var rebuild bool
	c := &cobra.Command{
		Use: "refs DIGEST", Short: "Who holds a blob: snapshots, VMs, images",
		Args: needArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			if rebuild {
				if err := a.reindex(ctx, r); err != nil || len(args) == 0 {
					return err
				}
			}
			if len(args) == 0 {
				return failure.New(failure.Usage, "refs needs a digest")
			}
			d, err := r.digestOf(ctx, args[0])
			if err != nil {
				return err
			}
			found, unread := r.heldBy(ctx, d)
			rows := []holderRow{}
			for _, h := range found {
				rows = append(rows, holderRow{string(h.Kind), h.ID, h.Name})
			}
			err = listing.Write(a.out, o, rows, func(h holderRow) string { return h.ID }, []listing.Column[holderRow]{
				{Name: "KIND", Cell: func(h holderRow) string { return h.Kind }},
				{Name: "ID", Cell: func(h holderRow) string { return short(h.ID, o.NoTrunc) }},
				{Name: "NAME", Cell: func(h holderRow) string { return h.Name }},
			})
			return errors.Join(err, unread)
		},
	}
	listFlags(c, &o)
	c.Flags().BoolVar(&rebuild, "rebuild", false, "rebuild refs.db from the manifests first")
	return c
}

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/listing"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store"
)

// follow keeps refs.db in step. The index is derived: a failure to write it is
// told and never fails the command, since `refs` and gc rebuild it.
func (a *app) follow(st *store.Store) {
	tell := func(err error) {
		if err != nil {
			a.log.Warn("refs.db is behind; it is rebuilt when next asked", "error", oneLine(err))
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

// entries reads the truth from which the index is rebuilt.
func (r *rooms) entries(ctx context.Context) iter.Seq2[refs.Entry, error] {
	return func(yield func(refs.Entry, error) bool) {
		for sn, err := range r.store.List(ctx) {
			if err != nil {
				yield(refs.Entry{}, err)
				return
			}
			if !yield(snapshotEntry(sn), nil) {
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

// holders answers who names a digest, from the truth itself: removal must not
// trust an index.
func (r *rooms) holders(ctx context.Context, d digest.Digest) ([]string, error) {
	var names []string
	for e, err := range r.entries(ctx) {
		if err != nil {
			return nil, err
		}
		for _, have := range e.Digests {
			if have == d {
				names = append(names, holderName(e.Holder))
				break
			}
		}
	}
	return names, nil
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
			rows, err := a.lookup(ctx, r, d)
			if err != nil {
				return err
			}
			return listing.Write(a.out, o, rows, func(h holderRow) string { return h.ID }, []listing.Column[holderRow]{
				{Name: "KIND", Cell: func(h holderRow) string { return h.Kind }},
				{Name: "ID", Cell: func(h holderRow) string { return short(h.ID, o.NoTrunc) }},
				{Name: "NAME", Cell: func(h holderRow) string { return h.Name }},
			})
		},
	}
	listFlags(c, &o)
	c.Flags().BoolVar(&rebuild, "rebuild", false, "rebuild refs.db from the manifests first")
	return c
}

// digestOf accepts a digest or an image reference.
func (r *rooms) digestOf(ctx context.Context, ref string) (digest.Digest, error) {
	if d, err := digest.Parse(ref); err == nil {
		return d, nil
	}
	im, err := r.images.Get(ctx, ref)
	if err != nil {
		return "", err
	}
	return im.ID, nil
}

// lookup asks the index, which is rebuilt when it is damaged or missing.
func (a *app) lookup(ctx context.Context, r *rooms, d digest.Digest) ([]holderRow, error) {
	found, err := a.db.Holders(ctx, d)
	if errors.Is(err, failure.Damaged) {
		if err = a.reindex(ctx, r); err == nil {
			found, err = a.db.Holders(ctx, d)
		}
	}
	if err != nil {
		return nil, err
	}
	var rows []holderRow
	for _, h := range found {
		rows = append(rows, holderRow{string(h.Kind), h.ID, h.Name})
	}
	return rows, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/measure"
)

// heldSnapshot resolves a reference and protects the snapshot, and what it names,
// from rm and gc.
func heldSnapshot(ctx context.Context, st *store.Store, l *store.Lease, ref string) (*store.Snapshot, error) {
	id, err := st.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := l.HoldSnapshot(ctx, id); err != nil {
		return nil, err
	}
	return l.HoldEdges(ctx, id)
}

// resolveAll returns the snapshots of several references, and why the others do
// not resolve.
func resolveAll(ctx context.Context, st *store.Store, refs []string) (ids []store.ID, err error) {
	err = each(refs, func(ref string) error {
		id, err := st.Resolve(ctx, ref)
		if err == nil {
			ids = append(ids, id)
		}
		return err
	})
	return ids, err
}

func newSnapshotDiff(a *app) *cobra.Command {
	var o listing.Options
	c := &cobra.Command{
		Use: "diff A B", Short: "How much of RAM and disks differs, from the indexes alone",
		Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			st, err := a.store(ctx)
			if err != nil {
				return err
			}
			lease, err := st.LeaseToRead(ctx, "snapshot diff")
			if err != nil {
				return err
			}
			defer lease.Release()
			from, err := heldSnapshot(ctx, st, lease, args[0])
			if err != nil {
				return err
			}
			to, err := heldSnapshot(ctx, st, lease, args[1])
			if err != nil {
				return err
			}
			rows, err := measure.Diff(ctx, st, from, to)
			if err != nil {
				return err
			}
			return listing.Write(a.out, o, rows, func(d measure.Difference) string { return d.Kind + " " + d.Where }, diffColumns())
		},
	}
	listFlags(c, &o)
	return c
}

func diffColumns() []listing.Column[measure.Difference] {
	type row = measure.Difference
	return []listing.Column[row]{
		{Name: "KIND", Cell: func(d row) string { return d.Kind }},
		{Name: "WHERE", Cell: func(d row) string { return d.Where }},
		{Name: "SIZE", Cell: func(d row) string { return size(d.Bytes) }, Less: func(x, y row) bool { return x.Bytes < y.Bytes }},
		{Name: "CHANGED", Cell: func(d row) string { return size(d.ChangedBytes) }, Less: func(x, y row) bool { return x.ChangedBytes < y.ChangedBytes }},
		{Name: "SHARE", Cell: func(d row) string { return fmt.Sprintf("%.1f%%", 100*float64(d.ChangedBytes)/float64(max(d.Bytes, 1))) }},
	}
}

// usage is one row of `snapshot du`: the space of a snapshot, how much of it is
// shared with others, and what its removal and a gc would free.
type usage struct {
	ID      store.ID `json:"id"`
	Name    string   `json:"name"`
	VM      string   `json:"vm"`
	Virtual int64    `json:"virtual"`
	Stored  int64    `json:"stored"`
	Shared  int64    `json:"shared"`
	Unique  int64    `json:"unique"`
}

func newSnapshotDU(a *app) *cobra.Command {
	var o listing.Options
	c := &cobra.Command{
		Use: "du [SNAPSHOT…]", Short: "Disk usage of snapshots, shared and unique", ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			ids, unknown := resolveAll(c.Context(), st, args)
			if len(ids) == 0 && unknown != nil {
				return unknown
			}
			rows, err := usages(c.Context(), st, ids)
			if err != nil {
				return errors.Join(err, unknown)
			}
			err = listing.Write(a.out, o, rows, func(u usage) string { return string(u.ID) }, usageColumns(&o))
			return errors.Join(err, unknown)
		},
	}
	listFlags(c, &o)
	return c
}

// usages returns a row for each of the snapshots, or for every one.
func usages(ctx context.Context, st *store.Store, ids []store.ID) ([]usage, error) {
	all, err := st.Index().Summaries(ctx)
	if err != nil {
		return nil, err
	}
	var rows []usage
	for _, s := range all {
		if len(ids) == 0 || slices.Contains(ids, s.ID) {
			rows = append(rows, usage{s.ID, s.Name, s.VM.Name, s.Size.Virtual, s.Size.Stored, s.Size.Stored - s.Size.Unique, s.Size.Unique})
		}
	}
	return rows, nil
}

func usageColumns(o *listing.Options) []listing.Column[usage] {
	bytes := func(name string, of func(usage) int64) listing.Column[usage] {
		return listing.Column[usage]{
			Name: name, Cell: func(u usage) string { return size(of(u)) },
			Less: func(x, y usage) bool { return of(x) < of(y) },
		}
	}
	return []listing.Column[usage]{
		{Name: "ID", Cell: func(u usage) string { return short(string(u.ID), o.NoTrunc) }},
		{Name: "NAME", Cell: func(u usage) string { return u.Name }},
		{Name: "VM", Cell: func(u usage) string { return u.VM }},
		bytes("VIRTUAL", func(u usage) int64 { return u.Virtual }),
		bytes("STORED", func(u usage) int64 { return u.Stored }),
		bytes("SHARED", func(u usage) int64 { return u.Shared }),
		bytes("UNIQUE", func(u usage) int64 { return u.Unique }),
	}
}

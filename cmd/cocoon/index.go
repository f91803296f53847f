package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/listing"
)

type holderRow struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

func newRefs(a *app) *cobra.Command {
	var o listing.Options
	var rebuild bool
	c := &cobra.Command{
		Use: "refs DIGEST", Short: "Show what references a blob: snapshots, VMs, images",
		Args: needArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			if rebuild {
				if err := r.Reindex(ctx); err != nil || len(args) == 0 {
					return err
				}
			}
			if len(args) == 0 {
				return failure.New(failure.Usage, "refs needs a digest")
			}
			d, err := r.Digest(ctx, args[0])
			if err != nil {
				return err
			}
			found, unread := r.HeldBy(ctx, d)
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

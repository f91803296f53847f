package main

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/image"
)

func newImagePin(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "pin IMAGE…", Short: "Keep images, though nothing else names them", Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			lease, err := r.Store.Lease(c.Context(), "image pin")
			if err != nil {
				return err
			}
			defer lease.Release()
			return each(args, func(ref string) error {
				row, err := imageRowOf(c.Context(), r, ref)
				if err != nil {
					return err
				}
				return r.Images.Pin(c.Context(), lease, digest.Digest(row.ID), row.Name)
			})
		},
	}
}

func newImageUnpin(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "unpin IMAGE…", Short: "Let go of pinned images", Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			return each(args, func(ref string) error {
				d, err := digestOf(c.Context(), r, ref)
				if err != nil && !errors.Is(err, failure.NotFound) { // it may be the id of a pin
					return err
				}
				return r.Images.Unpin(c.Context(), ref, d)
			})
		},
	}
}

// imageRows are the images that have a name, and behind them those that have only a
// pin.
func imageRows(ctx context.Context, r *house.House) ([]imageRow, error) {
	recs, err := r.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := r.Images.Pins(ctx)
	if err != nil {
		return nil, err
	}
	rows := []imageRow{}
	for _, rec := range recs {
		rows = append(rows, toImageRow(rec))
	}
	for _, p := range pins {
		for _, d := range p.Pinned() {
			if slices.ContainsFunc(rows, func(row imageRow) bool { return row.ID == d.String() }) {
				continue
			}
			row, err := imageRowOf(ctx, r, d.String())
			if errors.Is(err, failure.NotFound) {
				continue // of a blob that is none of an image, or is not there
			}
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	for i := range rows {
		rows[i].Pinned = slices.ContainsFunc(pins, func(p *image.Pin) bool { return p.Holds(digest.Digest(rows[i].ID)) })
	}
	return rows, nil
}

// isPinned tells whether a pin holds an image.
func isPinned(ctx context.Context, r *house.House, ref string) bool {
	d, err := digestOf(ctx, r, ref)
	if err != nil {
		return false
	}
	pins, _ := r.Images.Pins(ctx) // of those that cannot be read the caller is told
	return slices.ContainsFunc(pins, func(p *image.Pin) bool { return p.Holds(d) })
}

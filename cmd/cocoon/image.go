package main

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/internal/engine/image"
)

func newImage(a *app) *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Read-only images that VMs and snapshots stand on", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newImageImport(a), newImageList(a), newImageInspect(a), newImageRemove(a), newImagePin(a), newImageUnpin(a))
	return c
}

type imageRow struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Kind         string    `json:"kind"`
	Format       string    `json:"format"`
	Bytes        int64     `json:"bytes"`
	VirtualBytes int64     `json:"virtualBytes"`
	Created      time.Time `json:"created"`
	Pinned       bool      `json:"pinned"`
	Holders      []string  `json:"holders,omitempty"`
}

func toImageRow(r *image.Record) imageRow {
	return imageRow{ID: string(r.ID), Name: r.Name, Kind: r.Kind, Format: r.Format, Bytes: r.Bytes, VirtualBytes: r.VirtualBytes, Created: r.Created.UTC()}
}

func newImageImport(a *app) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "import FILE", Short: "Take in a disk (raw, qcow2), kernel, firmware or initramfs", Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.openNew(c.Context())
			if err != nil {
				return err
			}
			lease, err := r.Store.Lease(c.Context(), "image import")
			if err != nil {
				return err
			}
			defer lease.Release()
			rec, err := r.Images.Import(c.Context(), lease, args[0], name)
			if err != nil {
				return err
			}
			a.out.Line("%s", rec.ID)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "name (default: the file's base name)")
	return c
}

func newImageList(a *app) *cobra.Command {
	var o listing.Options
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List images that have a name or a pin", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rows, err := imageRows(c.Context(), r)
			if err != nil {
				return err
			}
			return listing.Write(a.out, o, rows, func(i imageRow) string { return i.ID }, []listing.Column[imageRow]{
				{Name: "ID", Cell: func(i imageRow) string { return short(i.ID, o.NoTrunc) }, Values: func(i imageRow) []string { return []string{i.ID} }},
				{Name: "NAME", Cell: func(i imageRow) string { return i.Name }},
				{Name: "KIND", Cell: func(i imageRow) string { return i.Kind }},
				{Name: "FORMAT", Cell: func(i imageRow) string { return i.Format }},
				{Name: "SIZE", Cell: func(i imageRow) string { return size(i.Bytes) }, Less: func(x, y imageRow) bool { return x.Bytes < y.Bytes }},
				{Name: "CREATED", Cell: func(i imageRow) string { return ago(i.Created) }, Less: func(x, y imageRow) bool { return x.Created.Before(y.Created) }},
				{Name: "PINNED", Cell: func(i imageRow) string { return map[bool]string{true: "yes"}[i.Pinned] }},
			})
		},
	}
	listFlags(c, &o)
	return c
}

func newImageInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE…", Short: "Images and who holds them, as JSON", Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rows := []imageRow{}
			err = each(args, func(ref string) error {
				row, err := imageRowOf(c.Context(), r, ref)
				if err != nil {
					return err
				}
				row.Holders, err = r.Holders(c.Context(), digest.Digest(row.ID))
				row.Pinned = isPinned(c.Context(), r, row.ID)
				rows = append(rows, row)
				return err
			})
			return errors.Join(a.out.JSON(rows), err)
		},
	}
}

func newImageRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE…", Aliases: []string{"remove"}, Short: "Remove images that no VM and no snapshot holds", Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			return each(args, func(ref string) error { return removeImage(c.Context(), r, ref) })
		},
	}
}

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

func newImage(a *app) *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Read-only images used by VMs and snapshots", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newImageImport(a), newImageList(a), newImageInspect(a), newImageRemove(a), newImagePin(a), newImageUnpin(a))
	return c
}

func newImageImport(a *app) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "import FILE", Short: "Import a disk (raw, qcow2), kernel, firmware or initramfs", Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.openNew(c.Context())
			if err != nil {
				return err
			}
			id, err := r.ImportImage(c.Context(), args[0], name)
			if err != nil {
				return err
			}
			a.out.Line("%s", id)
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
			rows, err := r.ListImages(c.Context())
			if err != nil {
				return err
			}
			return listing.Write(a.out, o, rows, func(i house.Image) string { return i.ID }, []listing.Column[house.Image]{
				{Name: "ID", Cell: func(i house.Image) string { return short(i.ID, o.NoTrunc) }, Values: func(i house.Image) []string { return []string{i.ID} }},
				{Name: "NAME", Cell: func(i house.Image) string { return i.Name }},
				{Name: "KIND", Cell: func(i house.Image) string { return i.Kind }},
				{Name: "FORMAT", Cell: func(i house.Image) string { return i.Format }},
				{Name: "SIZE", Cell: func(i house.Image) string { return size(i.Bytes) }, Less: func(x, y house.Image) bool { return x.Bytes < y.Bytes }},
				{Name: "CREATED", Cell: func(i house.Image) string { return ago(i.Created) }, Less: func(x, y house.Image) bool { return x.Created.Before(y.Created) }},
				{Name: "PINNED", Cell: func(i house.Image) string { return map[bool]string{true: "yes"}[i.Pinned] }},
			})
		},
	}
	listFlags(c, &o)
	return c
}

func newImageInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE…", Short: "Images and their holders, as JSON", Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rows := []house.Image{}
			err = each(args, func(ref string) error {
				row, err := r.InspectImage(c.Context(), ref)
				if row.ID != "" {
					rows = append(rows, row)
				}
				return err
			})
			return errors.Join(a.out.JSON(rows), err)
		},
	}
}

func newImageRemove(a *app) *cobra.Command {
	c := imageVerb(a, "rm", "Remove images that no VM and no snapshot holds", (*house.House).RemoveImage)
	c.Aliases = []string{"remove"}
	return c
}

func newImagePin(a *app) *cobra.Command {
	return imageVerb(a, "pin", "Keep images even if nothing else references them", (*house.House).PinImage)
}

func newImageUnpin(a *app) *cobra.Command {
	return imageVerb(a, "unpin", "Stop keeping pinned images", (*house.House).UnpinImage)
}

func imageVerb(a *app, verb, help string, do func(*house.House, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " IMAGE…", Short: help, Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			return each(args, func(ref string) error { return do(r, c.Context(), ref) })
		},
	}
}

package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
)

func transferFlags(c *cobra.Command, t *house.Transfer) {
	c.Flags().BoolVar(&t.PlainHTTP, "plain-http", false, "use http for the registry (loopback registries always do)")
	c.Flags().IntVar(&t.Concurrency, "concurrency", 4, "blobs transferred at once")
}

func withoutImagesFlag(c *cobra.Command, t *house.Transfer) {
	c.Flags().BoolVar(&t.WithoutImages, "without-images", false, "leave out kernel, firmware and base disks: the other side has them")
}

func newSnapshotPush(a *app) *cobra.Command {
	var t house.Transfer
	var format string
	c := &cobra.Command{
		Use: "push SNAPSHOT REGISTRY/NAME:TAG", Short: "Copy a snapshot to an OCI registry; what is already there is not sent again",
		Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			if err := t.Check(); err != nil {
				return err
			}
			h, err := a.open(c.Context())
			if err != nil {
				return err
			}
			progress := a.meter("pushing")
			t.OnBytes = progress.update
			out, err := h.Push(c.Context(), args[0], args[1], t)
			progress.end()
			if err != nil {
				return err
			}
			return a.printPushed(out, format)
		},
	}
	transferFlags(c, &t)
	withoutImagesFlag(c, &t)
	c.Flags().StringVar(&format, "format", "table", "table (the digest) or json")
	return c
}

func (a *app) printPushed(out *registry.Pushed, format string) error {
	if format == "json" {
		return a.out.JSON(out)
	}
	a.errOut.Line("sent %s of %s", size(out.SentBytes), size(out.Bytes))
	a.out.Line("%s", out.Digest)
	return nil
}

func newSnapshotExport(a *app) *cobra.Command {
	var out, format string
	var t house.Transfer
	c := &cobra.Command{
		Use: "export SNAPSHOT -o DIR|FILE.tar|-", Short: "Write an OCI image layout, or a folder that cloud-hypervisor --restore accepts",
		Args: needArgs(cobra.ExactArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(out) == "" {
				return failure.New(failure.Usage, "export needs -o DIR, FILE.tar or -")
			}
			if _, err := a.config.ExportFormat(out, format); err != nil {
				return err
			}
			h, err := a.open(c.Context())
			if err != nil {
				return err
			}
			progress := a.meter("writing")
			defer progress.end()
			t.OnBytes = progress.update
			return h.Export(c.Context(), args[0], out, format, a.out.Raw(), t)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the output, which must not exist; - is stdout")
	c.Flags().StringVar(&format, "format", "", "oci: an image layout; ch: a Cloud Hypervisor snapshot folder (default: oci for .tar and -, ch for a folder)")
	withoutImagesFlag(c, &t)
	return c
}

package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/store"
)

// diskUsage is what `system df` prints.
type diskUsage struct {
	*store.Usage
	CacheMaxBytes int64 `json:"cacheMaxBytes"`
}

func newSystemDF(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "df", Short: "What the store occupies, and what with", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			limit, err := a.cacheCap()
			if err != nil {
				return err
			}
			u, err := st.Usage(c.Context())
			if err != nil {
				return err
			}
			if format == "json" {
				return printJSON(a.out, diskUsage{u, limit})
			}
			return a.printUsage(u, limit)
		},
	}
	reportFormat(c, &format)
	return c
}

func (a *app) printUsage(u *store.Usage, limit int64) error {
	tw := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tFILES\tSIZE\t")
	for _, r := range []struct {
		what string
		of   store.Occupied
		note string
	}{
		{"snapshots, unique", u.Unique, fmt.Sprintf("%d snapshots", u.Snapshots)},
		{"snapshots, shared", u.Shared, "named by several"},
		{"  of these packs", u.Packs, ""},
		{"  of these maps", u.Maps, ""},
		{"  of these documents", u.Documents, ""},
		{"manifests", u.Manifests, ""},
		{"unnamed blobs", u.Unnamed, "being written, or for cocoon gc"},
		{"images", u.Images, ""},
		{"vms", u.VMs, "disks and records"},
		{"cache", u.Cache, "of at most " + size(limit)},
		{"  of these mapped", u.Mapped, "by VMs; cannot go"},
		{"ingest", u.Ingest, "being written"},
		{"trash", u.Trash, ""},
		{"other", u.Other, "folders, indexes, leases"},
	} {
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\n", r.what, r.of.Files, size(r.of.Bytes), r.note)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "total %s, %s free\n", size(u.Total), size(u.Free))
	return err
}

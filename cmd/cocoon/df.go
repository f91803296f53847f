package main

import (
	"fmt"
	"strconv"

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
				return a.out.JSON(diskUsage{u, limit})
			}
			a.printUsage(u, limit)
			return nil
		},
	}
	reportFormat(c, &format)
	return c
}

func (a *app) printUsage(u *store.Usage, limit int64) {
	t := a.out.Table()
	t.Row("WHAT", "FILES", "SIZE")
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
		t.Row(r.what, strconv.FormatInt(int64(r.of.Files), 10), size(r.of.Bytes), r.note)
	}
	t.End()
	a.out.Line("total %s, %s free", size(u.Total), size(u.Free))
}

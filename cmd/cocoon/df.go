package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/store/measure"
)

// diskUsage is what `system df` prints.
type diskUsage struct {
	*measure.Usage
	CacheMaxBytes int64 `json:"cacheMaxBytes"`
	// Logs are those of the VMs in the run folder, which is not part of the
	// store.
	Logs measure.Occupied `json:"logs"`
}

func newSystemDF(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "df", Short: "Disk usage of the store, by kind", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			limit, err := a.config.CacheCap()
			if err != nil {
				return err
			}
			u, err := measure.Count(c.Context(), st)
			if err != nil {
				return err
			}
			logs, err := a.logs()
			if err != nil {
				return err
			}
			if format == "json" {
				return a.out.JSON(diskUsage{u, limit, logs})
			}
			a.printUsage(u, limit, logs)
			return nil
		},
	}
	reportFormat(c, &format)
	return c
}

// logs are what VMs print, in the run folder.
func (a *app) logs() (all measure.Occupied, err error) {
	dirs, err := filepath.Glob(filepath.Join(a.set("runDir"), "*"))
	for _, dir := range dirs {
		n, files, lerr := keeper.Occupied(dir)
		all.Bytes, all.Files, err = all.Bytes+n, all.Files+files, errors.Join(err, lerr)
	}
	return all, err
}

func (a *app) printUsage(u *measure.Usage, limit int64, logs measure.Occupied) {
	t := a.out.Table()
	t.Row("WHAT", "FILES", "SIZE")
	for _, r := range []struct {
		what string
		of   measure.Occupied
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
	t.Row("logs of VMs", strconv.Itoa(logs.Files), size(logs.Bytes), "in "+a.set("runDir")+", not in the total")
	t.End()
	a.out.Line("total %s, %s free", size(u.Total), size(u.Free))
}

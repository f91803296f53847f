package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/index"
)

func newSnapshot(a *app) *cobra.Command {
	c := &cobra.Command{Use: "snapshot", Aliases: []string{"snap"}, Short: "Snapshots of running VMs", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newSnapshotCreate(a), newSnapshotList(a), newSnapshotInspect(a), newSnapshotRemove(a), newSnapshotRename(a),
		newSnapshotProtect(a, "protect", true), newSnapshotProtect(a, "unprotect", false), newSnapshotTag(a), newSnapshotVerify(a), newSnapshotCheck(a), newSnapshotDiff(a), newSnapshotDU(a), newSnapshotPrune(a),
		newSnapshotImport(a), newSnapshotExport(a), newSnapshotPush(a), newSnapshotPull(a))
	return c
}

func newSnapshotList(a *app) *cobra.Command {
	var o listing.Options
	var ofVM string
	var labels []string
	var tree bool
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List snapshots", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			debug.SetGCPercent(400) // there is little to collect in a tenth of a second
			for _, l := range labels {
				if _, err := house.ParseLabel("--label", l); err != nil {
					return err
				}
			}
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			rows, err := st.Index().Summaries(c.Context())
			if err != nil {
				return err
			}
			rows = slices.DeleteFunc(rows, func(s index.Summary) bool { return !summaryMatches(s, ofVM, labels) })
			columns := snapshotColumns(&o)
			if tree {
				if o.Sort != "" {
					return failure.New(failure.Usage, "--tree has its own order: omit --sort")
				}
				var depth map[store.ID]int
				rows, depth = treeOrder(rows)
				columns = treeColumns(&o, depth)
			}
			return listing.WriteEncoded(a.out, o, rows, func(s index.Summary) string { return string(s.ID) }, (*index.Summary).Encoded, columns)
		},
	}
	listFlags(c, &o)
	c.Flags().BoolVar(&tree, "tree", false, "list each snapshot below the one whose pages it reuses")
	c.Flags().StringVar(&ofVM, "vm", "", "only those of VM `ref` (name or id)")
	listVar(c.Flags(), &labels, "label", "only those with `key[=value]`")
	return c
}

func summaryMatches(s index.Summary, ofVM string, labels []string) bool {
	if ofVM != "" && s.VM.Name != ofVM && (len(ofVM) < 3 || !strings.HasPrefix(s.VM.ID, ofVM)) {
		return false
	}
	have := labelValues(s.Labels)
	for _, l := range labels {
		if !slices.Contains(have, l) {
			return false
		}
	}
	return true
}

func snapshotColumns(o *listing.Options) []listing.Column[index.Summary] {
	type row = index.Summary
	return []listing.Column[row]{
		{Name: "ID", Cell: func(s row) string { return short(string(s.ID), o.NoTrunc) }, Values: func(s row) []string { return []string{string(s.ID)} }},
		{Name: "NAME", Cell: func(s row) string { return s.Name }},
		{Name: "VM", Cell: func(s row) string { return s.VM.Name }, Values: func(s row) []string { return []string{s.VM.Name, s.VM.ID} }},
		{Name: "CREATED", Cell: func(s row) string { return ago(s.Created) }, Less: func(x, y row) bool { return x.Created.Before(y.Created) }},
		{Name: "MEMORY", Cell: func(s row) string { return size(s.Memory.Bytes) }, Less: func(x, y row) bool { return x.Memory.Bytes < y.Memory.Bytes }},
		{Name: "STORED", Cell: func(s row) string { return size(s.Size.Stored) }, Less: func(x, y row) bool { return x.Size.Stored < y.Size.Stored }},
		{Name: "UNIQUE", Cell: func(s row) string { return size(s.Size.Unique) }, Less: func(x, y row) bool { return x.Size.Unique < y.Size.Unique }},
		{Name: "PAUSE", Cell: func(s row) string { return pause(s.Capture) }, Less: func(x, y row) bool { return x.Capture.PauseMs < y.Capture.PauseMs }},
		{Name: "STATE", Cell: func(s row) string { return string(s.State) }},
		{Name: "LABEL", Hidden: true, Cell: func(row) string { return "" }, Values: func(s row) []string { return labelValues(s.Labels) }},
	}
}

// The pause of an imported snapshot is unknown.
func pause(c index.CaptureSummary) string {
	if c.Mode == "import" {
		return "-"
	}
	return fmt.Sprintf("%.0fms", c.PauseMs)
}

// snapshotDetail is one element of `snapshot inspect`: a list row and the rest.
type snapshotDetail struct {
	index.Summary
	ManifestDigest string           `json:"manifestDigest"`
	Origin         *store.Origin    `json:"origin"` // null: published by an earlier version
	Parents        []string         `json:"parents"`
	DiskDetails    []store.Disk     `json:"diskDetails"`
	MemoryRanges   any              `json:"memoryRanges"`
	Networks       []store.Network  `json:"networks"`
	Images         []store.ImageRef `json:"images"`
	Host           store.Host       `json:"host"`
	Path           string           `json:"path"`
}

func newSnapshotInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect SNAPSHOT…", Short: "Everything about snapshots, as JSON", Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			rows := []snapshotDetail{}
			err = each(args, func(ref string) error {
				d, err := inspectSnapshot(c.Context(), st, ref)
				if err == nil {
					rows = append(rows, *d)
				}
				return err
			})
			return errors.Join(a.out.JSON(rows), err)
		},
	}
}

func inspectSnapshot(ctx context.Context, st *store.Store, ref string) (*snapshotDetail, error) {
	sum, err := house.Summary(ctx, st, ref)
	if err != nil {
		return nil, err
	}
	sn, err := st.Get(ctx, sum.ID)
	if err != nil {
		return nil, err
	}
	d := &snapshotDetail{
		Summary: *sum, ManifestDigest: string(sn.ManifestDigest), Origin: sn.Meta.Origin, Parents: []string{}, DiskDetails: sn.Spec.Disks,
		MemoryRanges: sn.Spec.Memory, Networks: sn.Spec.Networks, Images: sn.Spec.Images, Host: sn.Spec.Host, Path: sn.Dir,
	}
	if sn.Spec.Parent != "" {
		d.Parents = append(d.Parents, string(sn.Spec.Parent))
	}
	return d, nil
}

func newSnapshotRemove(a *app) *cobra.Command {
	var force, dryRun bool
	c := &cobra.Command{
		Use: "rm SNAPSHOT…", Aliases: []string{"remove"}, Short: "Remove snapshots; gc frees what nothing else references",
		Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store(c.Context())
			if err != nil {
				return err
			}
			return each(args, func(ref string) error {
				id, err := st.Resolve(c.Context(), ref)
				if err != nil {
					return err
				}
				if dryRun {
					a.out.Line("%s", id)
					return nil
				}
				return st.Remove(c.Context(), id, store.RemoveOptions{Force: force})
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also a protected one")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the ids that would go")
	return c
}

func newSnapshotRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rename SNAPSHOT NAME", Short: "Give a snapshot another name", Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeMeta(c.Context(), args[0], func(m *store.Meta) error { m.Name = args[1]; return nil })
		},
	}
}

func newSnapshotProtect(a *app, verb string, protected bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " SNAPSHOT…", Short: map[bool]string{true: "Refuse rm without --force", false: "Allow rm again"}[protected],
		Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			return each(args, func(ref string) error {
				return a.changeMeta(c.Context(), ref, func(m *store.Meta) error { m.Protected = protected; return nil })
			})
		},
	}
}

func (a *app) changeMeta(ctx context.Context, ref string, change func(*store.Meta) error) error {
	st, err := a.store(ctx)
	if err != nil {
		return err
	}
	id, err := st.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	return st.SetMeta(ctx, id, change)
}

package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// pruneReport is the answer of `snapshot prune`, with the keys of its JSON.
type pruneReport struct {
	DryRun      bool       `json:"dryRun"`
	Decisions   []pruneRow `json:"decisions"`
	StoredBytes int64      `json:"storedBytes"` // blobs of the snapshots that stay, each once
	FreeBytes   int64      `json:"freeBytes"`   // what gc may free: blobs that only removed ones name
}

// pruneRow is one decision. Error says why a snapshot that should have gone is
// still there.
type pruneRow struct {
	ID      store.ID    `json:"id"`
	Name    string      `json:"name"`
	VM      store.VMRef `json:"vm"`
	Created time.Time   `json:"created"`
	Group   string      `json:"group"`
	Action  string      `json:"action"` // keep, remove
	Reasons []string    `json:"reasons"`
	Error   string      `json:"error,omitempty"`

	idle bool // gc's to remove
}

func newSnapshotPrune(a *app) *cobra.Command {
	var dryRun bool
	var format string
	var labels []string
	c := &cobra.Command{
		Use: "prune", Short: "Remove the snapshots that no retention rule keeps, and say why", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			rules, err := a.givenRules(c, labels)
			if err != nil {
				return err
			}
			if !rules.Removes() {
				return failure.Hint(failure.New(failure.Usage, "prune needs at least one rule"),
					"cocoon snapshot prune --keep-last 7; cocoon gc --prune runs the policy of the configuration")
			}
			rep, err := a.prune(c.Context(), rules, dryRun)
			if rep != nil {
				err = errors.Join(err, a.printPrune(rep, format))
			}
			return err
		},
	}
	ruleFlags(c, &labels)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print every decision, remove nothing")
	reportFormat(c, &format)
	return c
}

// prune applies a policy to the store. The report stands beside an error too:
// what could be removed is gone.
func (a *app) prune(ctx context.Context, rules policy.Rules, dryRun bool) (*pruneReport, error) {
	st, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	all, err := candidates(ctx, st, func(store.Summary) bool { return true })
	if err != nil {
		return nil, err
	}
	res := policy.Decide(all, rules, time.Now())
	rep := &pruneReport{DryRun: dryRun, Decisions: []pruneRow{}, StoredBytes: res.Bytes, FreeBytes: policy.Bytes(all) - res.Bytes}
	var errs []error
	for _, d := range res.Decisions {
		row := decisionRow(d)
		if !d.Keep && !dryRun {
			if err := removePruned(ctx, st, row.ID); err != nil {
				row.Error = oneLine(err)
				errs = append(errs, err)
			}
		}
		rep.Decisions = append(rep.Decisions, row)
	}
	if rules.MaxBytes > 0 && res.Bytes > rules.MaxBytes {
		errs = append(errs, failure.Hint(
			failure.New(failure.Conflict, "%s stay, above the limit of %s: the newest of each VM and protected snapshots are not removed for space", size(res.Bytes), size(rules.MaxBytes)),
			"unprotect or remove snapshots by hand, or raise the limit"))
	}
	return rep, errors.Join(errs...)
}

// removePruned takes one that is gone already for done.
func removePruned(ctx context.Context, st *store.Store, id store.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := st.Remove(ctx, id, store.RemoveOptions{})
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	return err
}

func decisionRow(d policy.Decision) pruneRow {
	s := d.Snapshot
	return pruneRow{
		ID: store.ID(s.ID), Name: s.Name, VM: vmRef(s.VM, s.VMName), Created: s.Created, Group: d.Group,
		Action: map[bool]string{true: "keep", false: "remove"}[d.Keep], Reasons: d.Reasons, idle: s.Idle(),
	}
}

// candidates are the snapshots that a policy decides about, with their blobs.
func candidates(ctx context.Context, st *store.Store, want func(store.Summary) bool) ([]policy.Snapshot, error) {
	rows, err := st.Summaries(ctx)
	if err != nil {
		return nil, err
	}
	sleepers, err := st.Sleepers(ctx)
	if err != nil {
		return nil, err
	}
	var out []policy.Snapshot
	for _, row := range rows {
		if !want(row) {
			continue
		}
		c := policy.Snapshot{
			ID: string(row.ID), Name: row.Name, VM: vmKey(row.VM), VMName: row.VM.Name, Created: row.Created,
			Expires: row.Expires, Labels: row.Labels, Protected: row.Protected, Damaged: row.State != "ready", Bed: row.Bed(),
		}
		if who, ok := sleepers[row.ID]; ok {
			c.Needed = who.String()
		}
		if !c.Damaged {
			sn, err := st.Get(ctx, row.ID)
			if errors.Is(err, failure.NotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			c.Foreign, c.Created = sn.Foreign(), sn.Came()
			for _, d := range append([]store.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
				c.Blobs = append(c.Blobs, policy.Blob{Digest: string(d.Digest), Bytes: d.Size})
			}
		}
		out = append(out, c)
	}
	return out, nil
}

const importedKey = "imported:"

// vmKey is the id, since names are used again; an imported folder has a name
// only.
func vmKey(vm store.VMRef) string {
	if vm.ID != "" {
		return vm.ID
	}
	return importedKey + vm.Name
}

func vmRef(key, name string) store.VMRef {
	if strings.HasPrefix(key, importedKey) {
		key = ""
	}
	return store.VMRef{ID: key, Name: name}
}

func (a *app) printPrune(rep *pruneReport, format string) error {
	if format == "json" {
		return a.out.JSON(rep)
	}
	t := a.out.Table()
	gone := 0
	for _, d := range rep.Decisions {
		verb := "kept"
		switch {
		case d.Error != "":
			verb = "not removed"
		case d.Action == "remove" && rep.DryRun:
			verb = "would remove"
		case d.Action == "remove":
			verb = "removed"
		}
		if d.Action == "remove" && d.Error == "" {
			gone++
		}
		t.Row(verb, short(string(d.ID), false), d.Name, d.VM.Name, d.Created.Format(time.RFC3339), strings.Join(d.Reasons, ", "))
	}
	t.End()
	a.out.Line("%s %d of %d snapshots; gc can free up to %s",
		map[bool]string{true: "would remove", false: "removed"}[rep.DryRun], gone, len(rep.Decisions), size(rep.FreeBytes))
	return nil
}

package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store"
)

// pruneAndCollect runs the configured policy, then gc, and reports both as one
// run. Expired snapshots go even where no policy is configured. The report
// stands beside an error where something went all the same.
func (a *app) pruneAndCollect(ctx context.Context, o gc.Options) (*gc.Report, error) {
	rules, err := a.configuredRules()
	if err != nil {
		return nil, err
	}
	h, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	if lost, err := h.Lost(ctx); err != nil || len(lost) > 0 && !o.AcceptLoss {
		if err != nil {
			return nil, err
		}
		return h.Collect(ctx, o) // which refuses: no policy is to judge by what is left
	}
	pruned, pruneErr := h.Prune(ctx, rules, o.DryRun)
	if pruned == nil {
		return nil, pruneErr
	}
	explain := o.Explain
	o.Explain = explain || o.DryRun
	if o.DryRun && o.Repack != nil {
		o.Repack.Without = gone(pruned)
	}
	rep, err := h.Collect(ctx, o)
	if rep == nil {
		rep = gc.NewReport(o.DryRun)
	}
	addPruned(rep, pruned)
	if !explain {
		rep.Kept = nil
	}
	return rep, errors.Join(pruneErr, err)
}

// gone are the snapshots that the policy removes.
func gone(p *house.PruneReport) (ids []store.ID) {
	for _, d := range p.Decisions {
		if d.Action != "keep" && d.Error == "" {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// addPruned puts the snapshots before the objects that they held. A snapshot
// itself frees nothing: its blobs are objects of their own.
func addPruned(rep *gc.Report, p *house.PruneReport) {
	var removed []gc.Removed
	var kept []gc.Kept
	var gone []string
	for _, d := range p.Decisions {
		why := "prune: " + strings.Join(d.Reasons, ", ")
		switch {
		case d.Idle: // gc says what becomes of it
		case d.Action == "keep":
			kept = append(kept, gc.Kept{Kind: "snapshot", ID: string(d.ID), Holders: []string{why}})
		case d.Error != "":
			kept = append(kept, gc.Kept{Kind: "snapshot", ID: string(d.ID), Holders: []string{d.Error}})
		default:
			removed = append(removed, gc.Removed{Kind: "snapshot", ID: string(d.ID), Reason: why})
			gone = append(gone, string(d.ID))
		}
	}
	if rep.DryRun {
		rep.Without(gone)
	}
	rep.Removed, rep.Kept = append(removed, rep.Removed...), append(kept, rep.Kept...)
}

// writeMetrics tells about a run that began at start, also about one that
// failed, and where the store cannot even be opened.
func (a *app) writeMetrics(ctx context.Context, path string, start time.Time, rep *gc.Report, failed error) error {
	end := time.Now()
	var st *store.Store
	if a.opened != nil {
		st = a.opened.Store
	}
	run := gc.Run{Ended: end, Took: end.Sub(start), Success: failed == nil, Report: rep, Damaged: house.Damaged}
	return gc.WriteMetrics(ctx, path, st, run)
}

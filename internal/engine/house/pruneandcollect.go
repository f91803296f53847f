package house

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/store"
)

// PruneAndCollect applies a policy, then runs gc, and reports both as one run.
// Expired snapshots go even without any rule. With an error, the report still
// says what was removed.
func (h *House) PruneAndCollect(ctx context.Context, rules policy.Rules, o gc.Options) (*gc.Report, error) {
	if lost, err := h.Lost(ctx); err != nil || len(lost) > 0 && !o.AcceptLoss {
		if err != nil {
			return nil, err
		}
		return h.Collect(ctx, o) // which refuses: no policy may decide by what is left
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
func gone(p *PruneReport) (ids []store.ID) {
	for _, d := range p.Decisions {
		if d.Action != "keep" && d.Error == "" {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// addPruned puts the snapshots before the objects they held. A snapshot itself
// frees nothing: its blobs are objects of their own.
func addPruned(rep *gc.Report, p *PruneReport) {
	var removed []gc.Removed
	var kept []gc.Kept
	var gone []string
	for _, d := range p.Decisions {
		why := "prune: " + strings.Join(d.Reasons, ", ")
		switch {
		case d.Idle: // gc reports what happens to it
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

// WriteMetrics reports a run of gc that began at start, even one that failed, or
// could not open the store: h is nil then.
func (h *House) WriteMetrics(ctx context.Context, path string, start time.Time, rep *gc.Report, failed error) error {
	end := time.Now()
	var st *store.Store
	if h != nil {
		st = h.Store
	}
	return gc.WriteMetrics(ctx, path, st, gc.Run{Ended: end, Took: end.Sub(start), Success: failed == nil, Report: rep, Damaged: damaged})
}

package gc

import (
	"context"
	"fmt"
	"math"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/repack"
)

// Repack configures rewriting: packs of which less than Threshold (0 to 1) is
// live are rewritten. Without lists snapshots that a dry run treats as removed.
type Repack struct {
	Threshold float64
	Without   []store.ID
}

// RepackReport is what a run did, or a dry run would do, with packs.
type RepackReport struct {
	Threshold float64        `json:"threshold"`
	Packs     []RepackedPack `json:"packs"`
	Snapshots []store.ID     `json:"snapshots"` // that have a new manifest
	// Bytes of the rewritten packs, of their live pages by estimate, and of the
	// new packs; the last is 0 in a dry run.
	OldBytes      int64 `json:"oldBytes"`
	ExpectedBytes int64 `json:"expectedBytes"`
	WrittenBytes  int64 `json:"writtenBytes"`
}

// RepackedPack is a pack whose live share is below the threshold; with Explain
// every pack is listed.
type RepackedPack struct {
	ID            string  `json:"id"`
	Action        string  `json:"action"` // rewrite or keep
	Bytes         int64   `json:"bytes"`
	Pages         int     `json:"pages"`
	LivePages     int     `json:"livePages"`
	LiveShare     float64 `json:"liveShare"`
	ExpectedBytes int64   `json:"expectedBytes"`
	Snapshots     int     `json:"snapshots"` // that name it
	Reason        string  `json:"reason"`
}

// repack runs before the mark: the packs it replaces are unreferenced then and go
// like any blob. An error that stops it is reported when the rest of the run is
// done.
func (c *collector) repack(ctx context.Context) (told error, err error) {
	if c.o.Repack == nil {
		return nil, nil
	}
	plan, err := repack.NewPlan(ctx, c.st, repack.Options{Threshold: c.o.Repack.Threshold, Without: c.o.Repack.Without})
	if err != nil {
		return nil, unreadable(err)
	}
	done := &repack.Result{Snapshots: []store.ID{}}
	if !c.o.DryRun {
		done, told = repack.Run(ctx, c.m, plan)
		c.rep.LockMs = max(c.rep.LockMs, float64(c.m.Locked().Microseconds())/1000)
		durable.Step("gc.repacked")
	}
	c.rep.Repack = c.repacked(plan, done)
	return told, ctx.Err()
}

func (c *collector) repacked(plan *repack.Plan, done *repack.Result) *RepackReport {
	r := &RepackReport{Threshold: c.o.Repack.Threshold, Packs: []RepackedPack{}, Snapshots: done.Snapshots, WrittenBytes: done.WrittenBytes}
	for _, u := range plan.Packs {
		if !u.Poor && !c.o.Explain {
			continue
		}
		p := RepackedPack{
			ID: u.ID.Encoded(), Action: "rewrite", Bytes: u.Bytes, Pages: u.Pages, LivePages: u.Live, LiveShare: rounded(u.Share()),
			ExpectedBytes: u.ExpectedBytes, Snapshots: len(u.Snapshots),
		}
		switch {
		case u.Why != "":
			p.Action, p.Reason = "keep", u.Why
		case !u.Poor:
			p.Action, p.Reason = "keep", "enough of it is live"
		default:
			p.Reason = fmt.Sprintf("less than %.0f %% of it is live", 100*c.o.Repack.Threshold)
			r.OldBytes += u.Bytes
			r.ExpectedBytes += u.ExpectedBytes
		}
		r.Packs = append(r.Packs, p)
	}
	return r
}

func rounded(share float64) float64 { return math.Round(share*10000) / 10000 }

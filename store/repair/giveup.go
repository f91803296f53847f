package repair

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/repack"
)

// A giveUp gives up a pack that cannot be rebuilt but of which everything that
// is needed can be had: pages that no page map names may be lost, and pages that
// were found elsewhere need not compress to the bytes that stood here. What is
// needed moves to a new pack, as by a repack.
type giveUp struct {
	how string

	use  *repack.PackUse
	plan *repack.Plan
	h    *finder
}

// planGiveUp looks for what is needed of a damaged pack and changes nothing. It
// is failure.Damaged when some of that cannot be had. Close the answer.
func planGiveUp(ctx context.Context, st *store.Store, in *store.Ingest, d digest.Digest, affects []store.ID, o Options) (*giveUp, error) {
	h, _, err := searched(ctx, st, in, d, affects, o)
	if err != nil {
		return nil, err
	}
	g := &giveUp{h: h}
	if g.plan, err = repack.NewPlan(ctx, st, repack.Options{Only: []digest.Digest{d}, CopyOf: h.copyOf}); err == nil {
		err = g.judge()
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// judge says how, or why not.
func (g *giveUp) judge() error {
	h, use := g.h, g.plan.Use(g.h.d)
	if use == nil {
		return failure.New(failure.Damaged, "no snapshot that can be read names it")
	}
	if use.Why != "" {
		return failure.New(failure.Damaged, "%s", use.Why)
	}
	needed, lost := 0, 0
	for page, hash := range h.ix.Hashes {
		switch {
		case !h.want[hash]:
		case use.Needs(uint32(page)):
			needed++
		default:
			lost++
		}
	}
	if needed > 0 {
		return failure.New(failure.Damaged, "there is no copy of %d pages that are needed", needed)
	}
	g.use = use
	g.how = fmt.Sprintf("its %d pages that are needed were moved to another pack", use.Live)
	if lost > 0 {
		g.how += fmt.Sprintf("; %d lost ones are named by no page map", lost)
	}
	if len(h.at) > 0 {
		g.how += fmt.Sprintf("; %d were taken from %s", len(h.at), h.from())
	}
	return nil
}

// carryOut moves what is needed. The old pack is left to the collector.
func (g *giveUp) carryOut(ctx context.Context, m *store.Maintenance) error {
	if _, err := repack.Run(ctx, m, g.plan); err != nil {
		return err
	}
	if g.use.Why != "" {
		return failure.New(failure.Damaged, "%s", g.use.Why)
	}
	return nil
}

// Close lets go of the pages that were found.
func (g *giveUp) Close() error { return g.h.Close() }

// copyOf gives a page that was found.
func (h *finder) copyOf(hash pack.Hash, page []byte) bool {
	at, ok := h.at[hash]
	if !ok {
		return false
	}
	_, err := h.scratch.ReadAt(page, at)
	return err == nil
}

package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Salvage gives up a pack that cannot be made whole but of which everything that
// is needed can be had: pages that no page map names may be lost, and pages that
// were found elsewhere need not compress to the bytes that stood here. What is
// needed moves to a new pack, as by a repack.
type Salvage struct {
	How string

	use  *PackUse
	plan *RepackPlan
	h    *healer
}

// PlanSalvage looks for what is needed of a damaged pack and changes nothing. It
// is failure.Damaged when some of that cannot be had. Close the answer.
func (s *Store) PlanSalvage(ctx context.Context, in *Ingest, d digest.Digest, affects []ID, o HealOptions) (*Salvage, error) {
	r, ix, err := s.openIndex(ctx, d, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h := &healer{st: s, d: d, ix: ix, want: map[pack.Hash]bool{}, at: map[pack.Hash]int64{}}
	if err := h.search(ctx, in, r, affects, o); err != nil {
		return nil, err
	}
	sv := &Salvage{h: h}
	if sv.plan, err = s.PlanRepack(ctx, RepackOptions{Only: []digest.Digest{d}, CopyOf: h.copyOf}); err == nil {
		err = sv.judge()
	}
	if err != nil {
		return nil, errors.Join(err, sv.Close())
	}
	return sv, nil
}

// judge says how, or why not.
func (sv *Salvage) judge() error {
	h, use := sv.h, sv.plan.uses[sv.h.d]
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
		case use.live.Has(uint32(page)):
			needed++
		default:
			lost++
		}
	}
	if needed > 0 {
		return failure.New(failure.Damaged, "there is no copy of %d pages that are needed", needed)
	}
	sv.use = use
	sv.How = fmt.Sprintf("its %d pages that are needed were moved to another pack", use.Live)
	if lost > 0 {
		sv.How += fmt.Sprintf("; %d lost ones are named by no page map", lost)
	}
	if len(h.at) > 0 {
		sv.How += fmt.Sprintf("; %d were taken from %s", len(h.at), h.from())
	}
	return nil
}

// Salvage carries it out. The old pack is left to the collector.
func (m *Maintenance) Salvage(ctx context.Context, sv *Salvage) error {
	if _, err := m.Repack(ctx, sv.plan); err != nil {
		return err
	}
	if sv.use.Why != "" {
		return failure.New(failure.Damaged, "%s", sv.use.Why)
	}
	return nil
}

// Close lets go of the pages that were found.
func (sv *Salvage) Close() error { return sv.h.scratch.Close() }

// copyOf gives a page that was found.
func (h *healer) copyOf(hash pack.Hash, page []byte) bool {
	at, ok := h.at[hash]
	if !ok {
		return false
	}
	_, err := h.scratch.ReadAt(page, at)
	return err == nil
}

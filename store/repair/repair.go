// Package repair finds damage in a store and repairs it.
//
// Words: an object is sound or damaged; a damaged one is not what the snapshots
// that name it need. [Verify] reads objects and compares them; it can put the
// affected snapshots into quarantine, and [Run] releases those that it found
// sound. There are three ways to repair: rebuild an object byte for byte, from
// what is left of it and from copies of its pages; fetch a blob from elsewhere;
// and give up a pack if everything that is needed of it can move to another one.
//
// [Run] first rebuilds each meta.json that cannot be read, verifies, tries those ways
// on each damaged blob in that order, verifies again what was damaged or in
// quarantine, and last of all rebuilds what is derived.
//
// Invariants: nothing is removed; nothing is replaced by data without the digest
// in its name, and no snapshot by one of other contents; a repair that dies
// half-way has only done whole steps, and the next one continues.
package repair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// Options of Run.
type Options struct {
	DryRun bool
	// Copies gives the raw files that a snapshot's images may be found in.
	Copies func(context.Context, *store.Snapshot) []RawCopy
	// Fetch replaces a damaged or missing blob by one from elsewhere, such as a
	// registry, and returns the origin; failure.NotFound if it is not there. Nil:
	// there is no such place.
	Fetch func(context.Context, *store.Ingest, store.Descriptor) (from string, err error)
}

// Action is something that was, or would be, repaired; or, in Left, was not.
type Action struct {
	Object  string     `json:"object"`
	What    string     `json:"what"` // how it was repaired, or why not
	Affects []store.ID `json:"affects,omitempty"`
}

// Report is the result of Run.
type Report struct {
	DryRun      bool       `json:"dryRun"`
	Repaired    []Action   `json:"repaired"`
	Left        []Action   `json:"left"`
	Released    []store.ID `json:"released"`
	Quarantined []store.ID `json:"quarantined"`
	Derived     []Action   `json:"derived"` // made again, whether it was damaged or not
	BytesRead   int64      `json:"bytesRead"`
	DurationMs  float64    `json:"durationMs"`
}

type run struct {
	st    *store.Store
	lease *store.Lease
	in    *store.Ingest
	o     Options
	rep   *Report
}

// Run repairs what can be repaired. What cannot is in the report's Left; an error
// means that the repair itself failed. The report stands beside the error if only
// what is derived could not be made again.
func Run(ctx context.Context, st *store.Store, o Options) (*Report, error) {
	start := time.Now()
	r := &run{st: st, o: o, rep: &Report{
		DryRun: o.DryRun, Repaired: []Action{}, Left: []Action{}, Released: []store.ID{}, Quarantined: []store.ID{}, Derived: []Action{},
	}}
	ids, err := st.IDs()
	if err != nil {
		return nil, err
	}
	if err := r.metas(ctx, ids); err != nil {
		return nil, err
	}
	found, err := Verify(ctx, st, nil, VerifyOptions{ReadData: true})
	if err != nil {
		return nil, err
	}
	r.rep.BytesRead = found.BytesRead
	if found, err = r.blobs(ctx, found); err != nil {
		return nil, err
	}
	if err := r.judge(ctx, ids, found); err != nil {
		return nil, err
	}
	err = r.derived(ctx)
	r.rep.DurationMs = float64(time.Since(start).Microseconds()) / 1000
	return r.rep, err
}

func (r *run) repaired(object, what string, affects ...store.ID) {
	r.rep.Repaired = append(r.rep.Repaired, Action{object, what, affects})
}

func (r *run) left(object string, why error, affects ...store.ID) {
	r.rep.Left = append(r.rep.Left, Action{object, strings.ReplaceAll(why.Error(), "\n", "; "), affects})
}

func (r *run) metas(ctx context.Context, ids []store.ID) error {
	for _, id := range ids {
		_, err := r.st.Meta(id)
		if err == nil || errors.Is(err, failure.NotFound) {
			continue
		}
		if !errors.Is(err, failure.Damaged) {
			return err
		}
		how, err := r.st.RemakeMeta(ctx, id, r.o.DryRun)
		if errors.Is(err, failure.Damaged) { // something lies in its place
			r.left(MetaObject+string(id), err, id)
			continue
		}
		if err != nil {
			return err
		}
		r.repaired(MetaObject+string(id), how, id)
	}
	return nil
}

// judge reads the snapshots in question again and marks or releases them.
func (r *run) judge(ctx context.Context, ids []store.ID, found *VerifyReport) error {
	suspects := map[store.ID]bool{}
	for _, d := range found.Damaged {
		for _, id := range d.Affects {
			suspects[id] = true
		}
	}
	for _, id := range ids {
		sn, err := r.st.Get(ctx, id)
		marked := err == nil && sn.Meta.Quarantine != nil
		if r.o.DryRun || !suspects[id] && !marked {
			continue
		}
		rep, err := Verify(ctx, r.st, []store.ID{id}, VerifyOptions{ReadData: true, Quarantine: true})
		if errors.Is(err, failure.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		r.rep.BytesRead += rep.BytesRead
		switch {
		case len(rep.Damaged) > 0:
			r.rep.Quarantined = append(r.rep.Quarantined, id)
		case marked:
			if err := Release(ctx, r.st, id); err != nil {
				return err
			}
			r.rep.Released = append(r.rep.Released, id)
		}
	}
	return nil
}

// derived comes last: it is rebuilt from what is repaired by then.
func (r *run) derived(ctx context.Context) error {
	if r.o.DryRun {
		r.derive("would be made again from the manifests")
		return nil
	}
	if err := r.st.Names().Complete(ctx); err != nil {
		return err
	}
	err := r.st.Index().Rebuild(ctx)
	if errors.Is(err, failure.Damaged) { // something lies in its place
		r.left("refs.db", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("rebuild refs.db: %w", err)
	}
	r.derive("made again from the manifests")
	return nil
}

func (r *run) derive(what string) {
	r.rep.Derived = append(r.rep.Derived, Action{Object: "refs.db", What: what})
}

// Nothing: what there is, is sound.
func (r *Report) Nothing() bool {
	return len(r.Repaired)+len(r.Left)+len(r.Released)+len(r.Quarantined) == 0
}

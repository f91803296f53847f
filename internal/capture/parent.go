package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/keyring"
	"github.com/cocoonv2/cocoon/store"
)

// What a request may say instead of a snapshot whose pages may be reused.
const (
	autoParent = "auto" // the newest of the same origin; "" too
	noParent   = "none"
)

// asked: for one by name, which is not passed over in silence.
func asked(parent string) bool { return parent != "" && parent != autoParent && parent != noParent }

// origin is whose snapshots look alike: those of a VM, or those of a folder,
// which has no VM here and goes by the name that it was imported with.
type origin struct {
	vm, name string
	clonedOf store.ID // what the VM was made of, "" for none
}

func (o origin) made(s *store.Summary) bool {
	return s.VM.ID == o.vm && (o.vm != "" || s.VM.Name == o.name)
}

func (c *session) origin() origin {
	return origin{vm: c.rec.ID, clonedOf: store.ID(c.rec.Snapshot)}
}

// findParent picks the snapshot whose pages may be reused: the named one, or
// the newest of this VM, or the one the VM was cloned from.
func (c *session) findParent(ctx context.Context) (err error) {
	c.parent, err = findParent(ctx, c.Store, c.req.Parent, c.origin(), c.note)
	return err
}

func findParent(ctx context.Context, st *store.Store, parent string, of origin, note func(string)) (*store.Snapshot, error) {
	switch {
	case parent == noParent:
		return nil, nil
	case asked(parent):
		id, err := st.Resolve(ctx, parent)
		if err != nil {
			return nil, err
		}
		return usable(ctx, st, id)
	}
	ids, err := candidates(ctx, st, of)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		sn, err := usable(ctx, st, id)
		if keyring.IsMissing(err) && note != nil {
			note(fmt.Sprintf("no page of an older snapshot is reused: %v", err))
		}
		if err == nil || !passedOver(err) {
			return sn, err
		}
	}
	return nil, nil
}

// candidates are the snapshots of the same origin, newest first, then what the VM
// was made of. One that needs another key than the first is looked at too: which
// keys are at hand is known there only.
func candidates(ctx context.Context, st *store.Store, of origin) (ids []store.ID, err error) {
	all, err := st.Summaries(ctx) // oldest first
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range slices.Backward(all) {
		if of.made(&s) && s.State == "ready" && !seen[s.Key] {
			ids = append(ids, s.ID)
			seen[s.Key] = true // of those under one key the newest is enough
		}
	}
	if of.clonedOf != "" {
		ids = append(ids, of.clonedOf)
	}
	return ids, nil
}

// usable answers a snapshot whose pages can be read.
func usable(ctx context.Context, st *store.Store, id store.ID) (*store.Snapshot, error) {
	sn, err := st.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := sn.Usable(); err != nil {
		return nil, err
	}
	return sn, st.Unlock(ctx, sn)
}

// passedOver: only speed is lost without a parent that nobody asked for.
func passedOver(err error) bool {
	return errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged) || keyring.IsMissing(err)
}

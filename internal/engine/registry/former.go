package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// A manifest digest that somebody noted can mean a snapshot whose manifest is
// another one now: its pages were moved (Maintenance.Replace), or it was taken in under a
// new id. Whoever asks for that digest is given the snapshot, so it matters who
// says so. Only this store does, in meta.json: of what it replaced itself, and of
// what it compared page by page (measure.Same). What a manifest says of itself is
// the word of whoever wrote it.

// remember notes that the manifest d, whose contents were compared with those of
// the snapshot, means it too, and gives the snapshot as it is then.
func (m *Mover) remember(ctx context.Context, id store.ID, d digest.Digest) (*store.Snapshot, error) {
	if err := m.Store.SetMeta(ctx, id, func(meta *store.Meta) error { meta.Remember(d); return nil }); err != nil {
		return nil, err
	}
	return m.Store.Get(ctx, id)
}

// meant finds the snapshot that remembers the manifest d; failure.NotFound when
// there is none. It reads every meta.json: ask when the id led nowhere.
func (m *Mover) meant(ctx context.Context, d digest.Digest) (*store.Snapshot, error) {
	ids, err := m.Store.IDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		meta, err := m.Store.Meta(id)
		if err != nil || !slices.Contains(meta.Former, d) {
			continue // one that is damaged remembers nothing
		}
		sn, err := m.Store.Get(ctx, id)
		if errors.Is(err, failure.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		return sn, nil
	}
	return nil, failure.New(failure.NotFound, "no snapshot remembers manifest %s", d)
}

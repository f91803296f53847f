package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// A manifest digest that somebody noted can mean a snapshot whose manifest is
// another one now: its pages were moved (replace.go), or it was taken in under a
// new id. Whoever asks for that digest is given the snapshot, so it matters who
// says so. Only this store does, in meta.json: of what it replaced itself, and of
// what it compared page by page (measure.Same). What a manifest says of itself is
// the word of whoever wrote it.

// formerAnnotation of a manifest: earlier programs noted there what Meta.Former
// says now. It counts for nothing, and goes when the manifest is replaced.
const formerAnnotation = "io.cocoon.manifest.former"

// Remember notes that the manifest d, whose contents were compared with those of
// the snapshot, means it too, and gives the snapshot as it is then.
func (s *Store) Remember(ctx context.Context, id ID, d digest.Digest) (*Snapshot, error) {
	if err := s.SetMeta(ctx, id, func(m *Meta) error { m.Remember(d); return nil }); err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}

// Meant finds the snapshot that remembers the manifest d; failure.NotFound when
// there is none. It reads every meta.json: ask when the id led nowhere.
func (s *Store) Meant(ctx context.Context, d digest.Digest) (*Snapshot, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		m, err := readMeta(s.Path("snapshots", string(id)))
		if err != nil || !slices.Contains(m.Former, d) {
			continue // one that is damaged remembers nothing
		}
		sn, err := s.Get(ctx, id)
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

package registry

import (
	"context"
	"fmt"

	"github.com/cocoonv2/cocoon/store"
)

// Repository checks a REGISTRY/NAME to fetch blobs from, without contacting it; a
// tag is ignored.
func (m *Mover) Repository(ref string) error {
	_, err := m.repository(ref)
	return err
}

// FetchBlob fetches one blob from REGISTRY/NAME. Bytes of another digest are
// failure.Damaged and change nothing here; failure.NotFound if the repository
// does not have it.
func (m *Mover) FetchBlob(ctx context.Context, in *store.Ingest, ref string, d store.Descriptor) error {
	repo, err := m.repository(ref)
	if err != nil {
		return err
	}
	if err := m.Store.Space().Require(d.Size); err != nil {
		return err
	}
	r, err := repo.Fetch(ctx, d)
	if err != nil {
		return fmt.Errorf("fetch %s from %s: %w", d.Digest, ref, classify(err))
	}
	defer r.Close()
	if err := in.Land(ctx, d, r); err != nil {
		return fmt.Errorf("fetch from %s: %w", ref, classify(err))
	}
	return nil
}

// BlobSource returns the function a repair fetches blobs with.
func (m *Mover) BlobSource(ref string) func(context.Context, *store.Ingest, store.Descriptor) (string, error) {
	return func(ctx context.Context, in *store.Ingest, d store.Descriptor) (string, error) {
		return ref, m.FetchBlob(ctx, in, ref, d)
	}
}

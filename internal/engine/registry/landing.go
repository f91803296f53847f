package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
)

// landing is this store as the receiver of a snapshot.
type landing struct {
	m     *Mover
	in    *store.Ingest
	lease *store.Lease

	mu          sync.Mutex
	done, total int64 // bytes
}

// fetch fetches the missing blobs, several at once. Each is leased before it is
// looked for, so that skipped ones stay until the publish.
func (t *landing) fetch(ctx context.Context, from origin, blobs []ocispec.Descriptor) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(t.m.concurrency())
	seen := map[digest.Digest]bool{}
	for _, d := range blobs {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			there, err := t.has(gctx, d)
			if err == nil && !there {
				err = t.bring(gctx, from, d)
			}
			if err == nil {
				t.count(d)
			}
			return err
		})
	}
	return g.Wait()
}

func (t *landing) has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if d.MediaType == MediaTypeImage {
		return t.m.Images.Has(ctx, t.lease, d.Digest, d.Size)
	}
	return t.in.Has(ctx, d)
}

// bring receives one blob and compares it with its digest.
func (t *landing) bring(ctx context.Context, from origin, d ocispec.Descriptor) error {
	r, err := from.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	if d.MediaType == MediaTypeImage {
		return t.m.Images.Land(ctx, t.lease, d.Digest, d.Size, r)
	}
	return t.in.Land(ctx, d, r)
}

func (t *landing) count(d ocispec.Descriptor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += d.Size
	if t.m.OnBytes != nil {
		t.m.OnBytes(t.done, max(t.done, t.total))
	}
}

// images fetches the images of the snapshot that this store lacks, and nothing
// else in the bundles.
func (t *landing) images(ctx context.Context, from origin, root ocispec.Descriptor, sn *store.Snapshot) error {
	missing, err := t.missingImages(ctx, sn)
	if err != nil || len(missing) == 0 {
		return err
	}
	bundles, err := from.Bundles(ctx, root)
	if err != nil {
		return fmt.Errorf("look for the images of snapshot %s: %w", sn.ID, err)
	}
	there := map[digest.Digest]bool{}
	for _, b := range bundles {
		var bundle ocispec.Manifest
		if json.Unmarshal(b, &bundle) != nil || bundle.ArtifactType != ArtifactTypeImages {
			continue // a signature, an SBOM: not ours
		}
		for _, l := range bundle.Layers {
			there[l.Digest] = true
		}
	}
	var blobs []ocispec.Descriptor
	for _, r := range missing {
		if !there[r.Digest] {
			return failure.Hint(failure.New(failure.NotFound, "snapshot %s needs image blob %s (%s), which is neither here nor there", sn.ID, r.Digest, r.Role),
				"import it with: "+hint.ImportImage.Of("FILE"))
		}
		blobs = append(blobs, ocispec.Descriptor{MediaType: MediaTypeImage, Digest: r.Digest, Size: r.Bytes})
		t.total += r.Bytes
	}
	return t.fetch(ctx, from, blobs)
}

// missingImages are the images of a snapshot that this store lacks; the lease
// holds the others from here on.
func (t *landing) missingImages(ctx context.Context, sn *store.Snapshot) ([]store.ImageRef, error) {
	var missing []store.ImageRef
	for _, r := range sn.Spec.Images {
		ok, err := t.m.Images.Has(ctx, t.lease, r.Digest, r.Bytes)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// fetchAll reads a small blob.
func fetchAll(ctx context.Context, from origin, d ocispec.Descriptor) ([]byte, error) {
	r, err := from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	if n != d.Size || digest.FromBytes(b.Bytes()) != d.Digest {
		return nil, failure.New(failure.Damaged, "%d bytes of digest %s came for %s of %d", n, digest.FromBytes(b.Bytes()), d.Digest, d.Size)
	}
	return b.Bytes(), nil
}

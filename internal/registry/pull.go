package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/keyring"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// PullOptions say how a snapshot is taken in.
type PullOptions struct {
	Meta store.Meta // name, description, labels of the snapshot here
	// TrustArgs also takes a snapshot whose VM has arguments of its own for the
	// VMM: those could name any file or device of this host.
	TrustArgs bool
	// NewID takes a snapshot whose id is taken here, by other contents, in under
	// an id of its own.
	NewID bool
}

// origin is where a snapshot comes from: a repository or a layout.
type origin interface {
	content.ReadOnlyStorage
	content.PredecessorFinder
}

// Pull takes in the snapshot at REGISTRY/NAME:TAG (or @DIGEST) with the images
// that it stands on. One that is here already is answered as it is.
func (m *Mover) Pull(ctx context.Context, ref string, o PullOptions) (*store.Snapshot, error) {
	repo, err := m.repository(ref)
	if err != nil {
		return nil, err
	}
	if repo.Reference.Reference == "" {
		return nil, failure.New(failure.Usage, "pull needs a tag or digest: %s:TAG", ref)
	}
	root, err := repo.Resolve(ctx, repo.Reference.Reference)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, classify(err))
	}
	sn, err := m.take(ctx, repo, root, o)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, classify(err))
	}
	return sn, nil
}

// take copies a snapshot from an origin and publishes it.
func (m *Mover) take(ctx context.Context, from origin, root ocispec.Descriptor, o PullOptions) (*store.Snapshot, error) {
	if err := o.Meta.Check(); err != nil {
		return nil, err
	}
	manifest, err := fetchManifest(ctx, from, root)
	if err != nil {
		return nil, err
	}
	foreign, err := m.announced(ctx, from, manifest)
	if err != nil {
		return nil, err
	}
	// Before any of its blobs is fetched:
	if here, err := m.known(ctx, foreign, o); here != nil || err != nil {
		return here, err
	}
	if err := m.nameFree(ctx, foreign, o); err != nil {
		return nil, err
	}
	if err := m.Store.Require(foreign.StoredBytes); err != nil {
		return nil, err
	}
	lease, err := m.Store.Lease(ctx, "snapshot pull")
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	in, err := m.Store.Ingest(ctx, lease)
	if err != nil {
		return nil, err
	}
	sn, err := m.land(ctx, &landing{m: m, in: in, lease: lease}, from, root, manifest, o)
	if err != nil {
		return nil, errors.Join(err, in.Abort())
	}
	return sn, nil
}

// announced is a foreign snapshot by its manifest and spec alone.
func (m *Mover) announced(ctx context.Context, from origin, manifest []byte) (*store.Snapshot, error) {
	foreign, err := store.DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	config := foreign.Manifest.Config
	if config.Size > store.SpecLimit {
		return nil, failure.New(failure.Damaged, "config of %d bytes", config.Size)
	}
	spec, err := m.Store.ReadBlob(ctx, config.Digest)
	if errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged) {
		spec, err = content.FetchAll(ctx, from, config)
	}
	if err != nil {
		return nil, err
	}
	return foreign, foreign.ReadSpec(spec)
}

func (m *Mover) land(ctx context.Context, to *landing, from origin, root ocispec.Descriptor, manifest []byte, o PullOptions) (*store.Snapshot, error) {
	opts := oras.CopyGraphOptions{
		Concurrency: m.concurrency(), MaxMetadataBytes: manifestLimit, FindSuccessors: belowOnly,
		PostCopy: to.count, OnCopySkipped: to.count,
	}
	if err := oras.CopyGraph(ctx, from, to, root, opts); err != nil {
		return nil, err
	}
	sn, err := to.in.Adoptee(ctx, manifest)
	if err != nil {
		return nil, err
	}
	here, err := m.compared(ctx, sn, o)
	if here != nil || err != nil {
		return here, err
	}
	if err := m.judge(ctx, sn, o); err != nil {
		return nil, err
	}
	if err := m.landImages(ctx, to, from, root, sn, opts); err != nil {
		return nil, err
	}
	meta := o.Meta
	if m.taken(ctx, sn.ID) {
		if sn, manifest, err = to.in.Renew(ctx, sn); err != nil {
			return nil, err
		}
		meta.Former = sn.Meta.Former
	}
	return to.in.Adopt(ctx, sn, manifest, meta)
}

// judge refuses what a restore could not use or must not trust. Without the key of
// an encrypted snapshot the VMM's documents wait for the restore, which reads them
// with it.
func (m *Mover) judge(ctx context.Context, sn *store.Snapshot, o PullOptions) error {
	docs := vm.Documents{Spec: &sn.Spec}
	if err := m.readDocuments(ctx, sn, &docs); err != nil {
		return err
	}
	b, err := vm.Agree(docs)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", sn.ID, err)
	}
	if docs.Config != nil {
		if err := b.Judge(docs.Config, docs.State); err != nil {
			return fmt.Errorf("snapshot %s: %w", sn.ID, err)
		}
	}
	if args := b.ExtraArgs(); len(args) > 0 && !o.TrustArgs {
		return failure.Hint(failure.New(failure.Incompatible, "snapshot %s: its VM has arguments of its own for the VMM: %q", sn.ID, args),
			"if you trust them, repeat with --trust-args")
	}
	return nil
}

// readDocuments reads the VMM's own, where the key is at hand.
func (m *Mover) readDocuments(ctx context.Context, sn *store.Snapshot, docs *vm.Documents) error {
	c, err := m.Store.ReadDocument(ctx, sn, store.MediaTypeCHConfig)
	if keyring.IsMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if docs.Config, err = chsnap.ParseConfig(c); err != nil {
		return err
	}
	s, err := m.Store.ReadDocument(ctx, sn, store.MediaTypeCHState)
	if err != nil {
		return err
	}
	docs.State, err = chsnap.ParseState(s)
	return err
}

// landImages brings what the snapshot stands on, where this store lacks it.
func (m *Mover) landImages(ctx context.Context, to *landing, from origin, root ocispec.Descriptor, sn *store.Snapshot, opts oras.CopyGraphOptions) error {
	missing, err := to.missingImages(ctx, sn)
	if err != nil || len(missing) == 0 {
		return err
	}
	referrers, err := from.Predecessors(ctx, root)
	if err != nil {
		return fmt.Errorf("look for the images of snapshot %s: %w", sn.ID, err)
	}
	for _, d := range referrers {
		b, err := fetchManifest(ctx, from, d)
		if err != nil {
			return err
		}
		var bundle ocispec.Manifest
		if json.Unmarshal(b, &bundle) != nil || bundle.ArtifactType != ArtifactTypeImages {
			continue // a signature, an SBOM: not ours
		}
		if err := oras.CopyGraph(ctx, from, to, d, opts); err != nil {
			return err
		}
	}
	if missing, err = to.missingImages(ctx, sn); err != nil || len(missing) == 0 {
		return err
	}
	return failure.Hint(failure.New(failure.NotFound, "snapshot %s stands on image blob %s (%s), which is neither here nor there", sn.ID, missing[0].Digest, missing[0].Role),
		"import it with: cocoon image import")
}

func fetchManifest(ctx context.Context, from origin, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > manifestLimit {
		return nil, failure.New(failure.Damaged, "manifest %s has %d bytes", d.Digest, d.Size)
	}
	if d.MediaType != ocispec.MediaTypeImageManifest {
		return nil, failure.New(failure.Incompatible, "%s is a %s, no snapshot", d.Digest, d.MediaType)
	}
	return content.FetchAll(ctx, from, d)
}

// landing is this store as the target of a copy.
type landing struct {
	m     *Mover
	in    *store.Ingest
	lease *store.Lease

	mu   sync.Mutex
	done int64
}

func (t *landing) count(_ context.Context, d ocispec.Descriptor) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += d.Size
	if t.m.OnBytes != nil {
		t.m.OnBytes(t.done, t.done)
	}
	return nil
}

// Exists leases first, so that what is skipped stays until the publish.
func (t *landing) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	switch d.MediaType {
	case ocispec.MediaTypeImageManifest:
		return false, nil // its bytes are wanted, it is no blob here
	case MediaTypeImage:
		return t.m.Images.Has(ctx, t.lease, d.Digest, d.Size)
	}
	return t.in.Has(ctx, d)
}

// Push takes one blob in, compared with its digest.
func (t *landing) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	switch d.MediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeEmptyJSON:
		return nil
	case MediaTypeImage:
		return t.m.Images.Land(ctx, t.lease, d.Digest, d.Size, r)
	}
	return t.in.Land(ctx, d, r)
}

// Fetch is asked only for manifests' successors, which come from the source.
func (t *landing) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return t.m.openBlob(ctx, d.Digest, nil, map[digest.Digest]bool{d.Digest: d.MediaType == MediaTypeImage})
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

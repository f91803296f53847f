package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// PullOptions configure a pull or import.
type PullOptions struct {
	Meta store.Meta // name, description, labels of the snapshot here
	// TrustArgs also accepts a snapshot whose VM has its own arguments for the
	// VMM: those could name any file or device of this host.
	TrustArgs bool
	// NewID stores a snapshot whose id is taken here, by other contents, under a
	// new id.
	NewID bool
}

// origin is where a snapshot comes from: a repository or a layout.
type origin interface {
	// Fetch opens a blob; the reader compares it with its digest.
	Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error)
	// Bundles gives manifests that refer to that of a snapshot, or may.
	Bundles(context.Context, ocispec.Descriptor) ([][]byte, error)
}

// Pull fetches the snapshot at REGISTRY/NAME:TAG (or @DIGEST) with its images.
// One that is already here is returned as it is.
func (m *Mover) Pull(ctx context.Context, ref string, o PullOptions) (*store.Snapshot, error) {
	repo, err := m.repository(ref)
	if err != nil {
		return nil, err
	}
	if repo.Reference.Reference == "" {
		return nil, failure.New(failure.Usage, "pull needs a tag or digest: %s:TAG", ref)
	}
	root, manifest, err := repo.manifest(ctx, repo.Reference.Reference)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, classify(err))
	}
	o.Meta.Origin = &store.Origin{Pulled: ref}
	sn, err := m.take(ctx, repo, root, manifest, o)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, classify(err))
	}
	return sn, nil
}

// take copies a snapshot from an origin and publishes it.
func (m *Mover) take(ctx context.Context, from origin, root ocispec.Descriptor, manifest []byte, o PullOptions) (*store.Snapshot, error) {
	if err := o.Meta.Check(); err != nil {
		return nil, err
	}
	if root.MediaType != ocispec.MediaTypeImageManifest {
		return nil, failure.New(failure.Incompatible, "%s is a %s, no snapshot", root.Digest, root.MediaType)
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
	if err := m.Store.Space().Require(foreign.StoredBytes); err != nil {
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
	sn, err := m.land(ctx, &landing{m: m, in: in, lease: lease, total: foreign.StoredBytes}, from, root, foreign, manifest, o)
	if err != nil {
		return nil, failure.Undone(err, in.Abort(), "nothing is left of the snapshot")
	}
	return sn, nil
}

// announced is a foreign snapshot by its manifest and spec alone.
func (m *Mover) announced(ctx context.Context, from origin, manifest []byte) (*store.Snapshot, error) {
	foreign, err := document.DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	spec, err := m.Store.ReadBlob(ctx, foreign.Manifest.Config.Digest)
	if errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged) {
		spec, err = fetchAll(ctx, from, foreign.Manifest.Config)
	}
	if err != nil {
		return nil, err
	}
	return foreign, foreign.ReadSpec(spec)
}

func (m *Mover) land(ctx context.Context, to *landing, from origin, root ocispec.Descriptor, foreign *store.Snapshot, manifest []byte, o PullOptions) (*store.Snapshot, error) {
	blobs := append([]ocispec.Descriptor{}, foreign.Manifest.Config)
	if err := to.fetch(ctx, from, append(blobs, foreign.Manifest.Layers...)); err != nil {
		return nil, err
	}
	sn, err := to.in.Adoptee(ctx, manifest)
	if err != nil {
		return nil, err
	}
	here, renew, err := m.compared(ctx, sn, o)
	if here != nil || err != nil {
		return here, err
	}
	if err := m.judge(ctx, sn, o); err != nil {
		return nil, err
	}
	if err := to.images(ctx, from, root, sn); err != nil {
		return nil, err
	}
	if renew {
		renewed, manifest, err := to.in.Renew(ctx, sn)
		if err != nil {
			return nil, err
		}
		meta := o.Meta
		meta.Former = renewed.Meta.Former
		return to.in.Adopt(ctx, renewed, manifest, meta)
	}
	got, err := to.in.Adopt(ctx, sn, manifest, o.Meta)
	if errors.Is(err, failure.Conflict) { // perhaps the same arrived meanwhile
		if here, herr := m.Store.Get(ctx, sn.ID); herr == nil && here.Means(sn.ManifestDigest) {
			return m.claim(ctx, here, o)
		}
	}
	return got, err
}

// judge refuses what a restore could not use or must not trust. Without the key
// of an encrypted snapshot the VMM's documents are left to the restore, which
// reads them with it.
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
		return failure.Hint(failure.New(failure.Incompatible, "snapshot %s: its VM has its own arguments for the VMM: %q", sn.ID, args),
			"if you trust them, repeat with "+hint.TrustArgs.Of())
	}
	return nil
}

// readDocuments reads the VMM's documents, if the key is available.
func (m *Mover) readDocuments(ctx context.Context, sn *store.Snapshot, docs *vm.Documents) error {
	c, err := contents.Of(m.Store, sn).Document(ctx, store.MediaTypeCHConfig)
	if keyring.IsMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if docs.Config, err = chsnap.ParseConfig(c); err != nil {
		return err
	}
	s, err := contents.Of(m.Store, sn).Document(ctx, store.MediaTypeCHState)
	if err != nil {
		return err
	}
	docs.State, err = chsnap.ParseState(s)
	return err
}

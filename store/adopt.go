package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Adopting takes in a snapshot that another store published: its manifest is
// kept byte for byte, so it has the same id and the same digest here.

// Has leases a blob and then says whether it is here whole. What the lease
// names stays, so a caller who hears true need not bring it.
func (in *Ingest) Has(ctx context.Context, d Descriptor) (bool, error) {
	if err := document.CheckDescriptor(d); err != nil {
		return false, err
	}
	if err := in.lease.Hold(ctx, d.Digest); err != nil {
		return false, err
	}
	fi, err := os.Stat(in.st.BlobPath(d.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || fi.Size() != d.Size || !in.st.foundDamaged(d.Digest) {
		return err == nil && fi.Size() == d.Size, err
	}
	return in.st.sound(d.Digest)
}

// Land writes a blob that comes from elsewhere. Exactly d.Size bytes are taken
// from r; failure.Damaged when they are fewer, more, or of another digest, and for
// a pack that does not hold the pages which its index names.
func (in *Ingest) Land(ctx context.Context, d Descriptor, r io.Reader) error {
	if err := document.CheckDescriptor(d); err != nil {
		return err
	}
	f, err := in.create()
	if err != nil {
		return err
	}
	err = copyVerified(ctx, f, d, r)
	if err == nil {
		err = pack.CheckTruth(ctx, f, d.Size)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("take in blob %s: %w", d.Digest, err), f.discard())
	}
	return f.keep(ctx, d)
}

func copyVerified(ctx context.Context, w io.Writer, d Descriptor, r io.Reader) error {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(contextReader{ctx, r}, d.Size+1))
	if err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); n != d.Size || got != d.Digest {
		return failure.New(failure.Damaged, "%d bytes of digest %s came, want %d", n, got, d.Size)
	}
	return nil
}

// contextReader ends a long copy when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// Adoptee is a foreign snapshot whose blobs have all landed: what Adopt will
// publish, for the caller to judge first.
func (in *Ingest) Adoptee(ctx context.Context, manifest []byte) (*Snapshot, error) {
	sn, err := document.DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	spec, err := in.st.ReadBlob(ctx, sn.Manifest.Config.Digest)
	if err != nil {
		return nil, contents.AsDamage(err)
	}
	if err := sn.ReadSpec(spec); err != nil {
		return nil, err
	}
	return sn, in.st.whole(ctx, sn)
}

// Adopt publishes a foreign snapshot under its own id; sn comes from Adoptee
// and manifest are the bytes it was read from. failure.Conflict when the id is
// here already. meta says where it was pulled or imported from.
func (in *Ingest) Adopt(ctx context.Context, sn *Snapshot, manifest []byte, meta Meta) (*Snapshot, error) {
	if err := meta.Check(); err != nil {
		return nil, err
	}
	var err error
	if meta.Origin, err = meta.Origin.Now(true); err != nil {
		return nil, err
	}
	in.id = sn.ID
	in.mu.Lock()
	in.layers = sn.Manifest.Layers
	in.mu.Unlock()
	dir, err := in.stageBytes(manifest, meta)
	if err != nil {
		return nil, err
	}
	if err := in.lease.Hold(ctx, sn.Spec.ImageDigests()...); err != nil {
		return nil, err
	}
	return in.publishStaged(ctx, dir, sn.Manifest.Config, &sn.Spec, meta)
}

// stageBytes writes the snapshot's folder, durable but not published.
func (in *Ingest) stageBytes(manifest []byte, meta Meta) (string, error) {
	metaBytes, err := meta.Encode()
	if err != nil {
		return "", err
	}
	dir, err := in.stageFolder("snapshot", manifest, metaBytes)
	if err != nil {
		return "", err
	}
	durable.Step("store.commit.staged")
	return dir, nil
}

// stageFolder makes a durable folder of the ingest with the two documents.
func (in *Ingest) stageFolder(name string, manifest, meta []byte) (string, error) {
	dir := filepath.Join(in.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("stage snapshot: %w", err)
	}
	if err := errors.Join(document.ManifestFile.Check(manifest), document.MetaFile.Check(meta)); err != nil {
		return "", err
	}
	for name, b := range map[string][]byte{"manifest.json": manifest, "meta.json": meta} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return "", fmt.Errorf("stage snapshot: %w", err)
		}
	}
	return dir, durable.SyncTree(dir)
}

// Renew gives a foreign snapshot, whose blobs have all landed, the id of this
// ingest: a new spec and a new manifest, which is answered with it. The blobs stay
// what they are. An encrypted one needs its key, which vouches for the spec.
func (in *Ingest) Renew(ctx context.Context, sn *Snapshot) (*Snapshot, []byte, error) {
	if err := contents.Of(in.st, sn).Unlock(ctx); err != nil {
		return nil, nil, err
	}
	if err := in.Use(sn.Spec.Key); err != nil {
		return nil, nil, err
	}
	renewed := *sn
	renewed.Spec.ID, renewed.ID = in.id, in.id
	var err error
	if renewed.Manifest.Config, err = in.putSpec(ctx, &renewed.Spec); err != nil {
		return nil, nil, err
	}
	b, err := json.MarshalIndent(renewed.Manifest, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	if err := renewed.ReadManifest(b); err != nil {
		return nil, nil, failure.New(failure.Damaged, "renew snapshot %s: %w", sn.ID, err)
	}
	renewed.Meta = Meta{}
	renewed.Meta.Remember(sn.ManifestDigest)
	return &renewed, b, nil
}

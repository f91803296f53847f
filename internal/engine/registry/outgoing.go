package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
)

// outgoing leases a snapshot and describes what has to be sent.
func (m *Mover) outgoing(ctx context.Context, l *store.Lease, ref string, withImages bool) (*outgoing, *store.Snapshot, error) {
	id, err := m.Store.Resolve(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if err := l.HoldSnapshot(ctx, id); err != nil {
		return nil, nil, err
	}
	sn, err := l.HoldEdges(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if sn.State != store.Ready {
		return nil, nil, failure.New(failure.Damaged, "snapshot %s is %s", id, sn.State)
	}
	manifest, err := contents.Of(m.Store, sn).Manifest()
	if err != nil {
		return nil, nil, err
	}
	o := &outgoing{m: m, inline: map[digest.Digest][]byte{}, images: map[digest.Digest]bool{}, below: map[digest.Digest][]ocispec.Descriptor{}}
	o.snapshot = o.manifest(manifest, store.ArtifactType)
	o.name(o.snapshot, append([]ocispec.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...)...)
	if withImages {
		err = o.makeBundle(sn)
	}
	return o, sn, err
}

// manifest keeps a manifest's bytes and describes it.
func (o *outgoing) manifest(b []byte, artifactType string) ocispec.Descriptor {
	d := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Digest: digest.FromBytes(b), Size: int64(len(b)),
	}
	o.inline[d.Digest] = b
	return d
}

// name says which blobs a manifest names; one that came already is not sent again.
func (o *outgoing) name(root ocispec.Descriptor, ds ...ocispec.Descriptor) {
	seen := map[digest.Digest]bool{}
	for _, l := range o.layers {
		seen[l.Digest] = true
	}
	for _, d := range ds {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			o.layers = append(o.layers, d)
			o.below[root.Digest] = append(o.below[root.Digest], d)
		}
	}
}

// makeBundle describes the images of the snapshot.
func (o *outgoing) makeBundle(sn *store.Snapshot) error {
	refs := sn.Spec.Images
	if len(refs) == 0 {
		return nil
	}
	b := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactTypeImages, Config: ocispec.DescriptorEmptyJSON, Subject: &o.snapshot,
	}
	o.inline[ocispec.DescriptorEmptyJSON.Digest] = ocispec.DescriptorEmptyJSON.Data
	seen := map[digest.Digest]bool{}
	for _, r := range refs {
		fi, err := os.Stat(o.m.Images.Path(r.Digest))
		if err != nil {
			return failure.New(failure.Damaged, "snapshot %s needs image blob %s (%s): %w", sn.ID, r.Digest, r.Role, err)
		}
		if seen[r.Digest] {
			continue
		}
		seen[r.Digest], o.images[r.Digest] = true, true
		b.Layers = append(b.Layers, ocispec.Descriptor{
			MediaType: MediaTypeImage, Digest: r.Digest, Size: fi.Size(),
			Annotations: map[string]string{roleAnnotation: r.Role},
		})
	}
	bytes, err := json.Marshal(b)
	if err != nil {
		return err
	}
	d := o.manifest(bytes, ArtifactTypeImages)
	o.bundle = &d
	o.name(d, append([]ocispec.Descriptor{b.Config}, b.Layers...)...)
	return nil
}

// total is the bytes of everything that has to be sent.
func (o *outgoing) total() int64 {
	n := o.snapshot.Size
	if o.bundle != nil {
		n += o.bundle.Size
	}
	for _, l := range o.layers {
		n += l.Size
	}
	return n
}

// openBlob opens what is in memory, an image blob, or a blob of the store.
func (m *Mover) openBlob(_ context.Context, d digest.Digest, inline map[digest.Digest][]byte, images map[digest.Digest]bool) (io.ReadCloser, error) {
	if b, ok := inline[d]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	path := m.Store.BlobPath(d)
	if images[d] {
		path = m.Images.Path(d)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return f, nil
}

// Package contents reads what a snapshot is made of: the VMM's documents, and RAM and
// disks by their page maps.
//
// All of it is read through the key that the spec names and no other, so that nobody
// without that key can make a snapshot, encrypted or plain, of parts of others. A
// caller calls Unlock before anything else: nothing of a snapshot need be looked at
// whose spec its key did not authenticate. And a lease of his holds the snapshot or its
// digests, or they may go while he reads.
//
// Every byte is compared with its digest or its hash before it is given; what is
// missing, short or another is failure.Damaged. Maps is for who needs all page maps, and
// looks first whether all is there.
package contents

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Store has the blobs, and the keys.
type Store interface {
	pack.Source
	ReadBlob(ctx context.Context, d digest.Digest) ([]byte, error)
	BlobPath(d digest.Digest) string
	ImageBlobPath(d digest.Digest) string
}

// Contents of one snapshot.
type Contents struct {
	st Store
	sn *document.Snapshot
}

// Of a snapshot of a store.
func Of(st Store, sn *document.Snapshot) Contents { return Contents{st, sn} }

// specMacKey is the annotation of the manifest's config that authenticates the
// spec of an encrypted snapshot.
const specMacKey = "vnd.cocoon.mac"

// specMacLabel is of the subkey for it.
const specMacLabel = "cocoon snapshot config"

// Vouch gives the annotations of a config by which a key authenticates a spec.
func Vouch(k *keyring.Key, spec []byte) map[string]string {
	return map[string]string{specMacKey: k.Mac(specMacLabel, spec)}
}

// Unlock refuses an encrypted snapshot whose key is not at hand, with
// [keyring.Missing], or whose spec is not what that key authenticated, as
// damaged. Whoever is about to use a snapshot calls it first: nothing of it
// needs to be looked at otherwise.
func (c Contents) Unlock(ctx context.Context) error {
	id, encrypted := c.sn.KeyID()
	if !encrypted {
		return nil
	}
	k, err := c.st.Key(id)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", c.sn.ID, err)
	}
	spec, err := c.st.ReadBlob(ctx, c.sn.Manifest.Config.Digest)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", c.sn.ID, AsDamage(err))
	}
	if c.sn.Manifest.Config.Annotations[specMacKey] != k.Mac(specMacLabel, spec) {
		return failure.New(failure.Damaged, "snapshot %s: its config is not what key %s authenticated", c.sn.ID, id)
	}
	return nil
}

// AsDamage: a blob that a manifest names and that is missing is damage.
func AsDamage(err error) error {
	if errors.Is(err, failure.NotFound) {
		return failure.Wrap(failure.Damaged, errors.New(err.Error()))
	}
	return err
}

// Source opens packs, and for them only what the snapshot's own key sealed.
func (c Contents) Source() pack.Source {
	id, _ := c.sn.KeyID()
	return source{c.st, c.sn.ID, id}
}

type source struct {
	Store
	of document.ID
	id keyring.ID
}

// Key makes source a pack.Source.
func (s source) Key(id keyring.ID) (*keyring.Key, error) {
	if id != s.id {
		return nil, failure.New(failure.Damaged, "it is encrypted with key %s, snapshot %s is not", id, s.of)
	}
	return s.Store.Key(id)
}

// Manifest gives the bytes that ManifestDigest is the digest of.
func (c Contents) Manifest() ([]byte, error) {
	b, err := document.ManifestFile.Read(c.sn.Dir + "/manifest.json")
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", c.sn.ID, err)
	}
	if d := digest.FromBytes(b); d != c.sn.ManifestDigest {
		return nil, failure.New(failure.Damaged, "manifest of snapshot %s changed from %s to %s", c.sn.ID, c.sn.ManifestDigest, d)
	}
	return b, nil
}

// Document loads the VMM's config or state, opened; mediaType says which.
func (c Contents) Document(ctx context.Context, mediaType string) ([]byte, error) {
	d := c.sn.Spec.CHConfig
	if mediaType == document.MediaTypeCHState {
		d = c.sn.Spec.CHState
	}
	b, err := c.st.ReadBlob(ctx, d)
	if err != nil || !keyring.IsSealed(b) {
		return b, err
	}
	plain, err := keyring.Open(c.Source(), mediaType, b)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return plain, nil
}

// Map loads a page map; Maps loads all of them.
func (c Contents) Map(ctx context.Context, d digest.Digest) (*pack.Map, error) {
	b, err := c.st.ReadBlob(ctx, d)
	if err != nil {
		return nil, AsDamage(err)
	}
	m, err := pack.DecodeMap(ctx, b, c.Source())
	if err != nil {
		return nil, fmt.Errorf("page map %s: %w", d, err)
	}
	return m, nil
}

// Memory opens RAM range i for verified reading.
func (c Contents) Memory(ctx context.Context, i int) (*pack.Image, error) {
	r := c.sn.Spec.Memory[i]
	m, err := c.Map(ctx, r.Map)
	if err != nil {
		return nil, err
	}
	if m.Bytes != r.Bytes {
		return nil, failure.New(failure.Damaged, "page map %s describes %d bytes, the snapshot says %d", r.Map, m.Bytes, r.Bytes)
	}
	return c.Open(ctx, m)
}

// Disk opens disk i for verified reading. It is as large as its page map says:
// snapshots of disks that had been grown were once published with the size that the
// VM was made with.
func (c Contents) Disk(ctx context.Context, i int) (*pack.Image, error) {
	d := c.sn.Spec.Disks[i]
	if d.Map == "" {
		return nil, fmt.Errorf("disk %d of snapshot %s is an image blob", d.Index, c.sn.ID)
	}
	m, err := c.Map(ctx, d.Map)
	if err != nil {
		return nil, err
	}
	return c.Open(ctx, m)
}

// Open opens an image by its decoded page map, for verified reading.
func (c Contents) Open(ctx context.Context, m *pack.Map) (*pack.Image, error) {
	return pack.OpenImage(ctx, m, c.Source())
}

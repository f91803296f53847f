package document

import (
	"fmt"
	"slices"
	"strings"

	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// Snapshot is a published snapshot as read from its folder.
type Snapshot struct {
	ID             ID
	Dir            string
	Manifest       ocispec.Manifest
	ManifestDigest digest.Digest
	Spec           Spec
	Meta           Meta
	State          State
	StoredBytes    int64 // of its blobs, shared ones included
}

// State of a snapshot: only what is Ready is built upon.
type State string

// The states of a snapshot.
const (
	Ready       State = "ready"
	Quarantined State = "quarantined" // damage was found, see Quarantine
	Damaged     State = "damaged"     // a part of it cannot be read
)

// ReadManifest takes in the bytes of a manifest.
func (sn *Snapshot) ReadManifest(b []byte) error {
	if err := jsonv1.Unmarshal(b, &sn.Manifest); err != nil { // by the rules of encoding/json, in half of its time
		return failure.New(failure.Damaged, "manifest: %w", err)
	}
	m := &sn.Manifest
	if m.SchemaVersion != 2 || m.ArtifactType != ArtifactType {
		return failure.New(failure.Damaged, "manifest: schema %d, artifact type %q", m.SchemaVersion, m.ArtifactType)
	}
	sn.ManifestDigest = digest.FromBytes(b)
	for _, d := range append([]Descriptor{m.Config}, m.Layers...) {
		if err := CheckDescriptor(d); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		sn.StoredBytes += d.Size
	}
	return nil
}

// CheckDescriptor refuses what names no blob.
func CheckDescriptor(d Descriptor) error {
	if !IsSHA256(d.Digest) || d.Size < 0 || d.Size > 1<<40 {
		return failure.New(failure.Damaged, "descriptor %q of %d bytes", d.Digest, d.Size)
	}
	return nil
}

// IsSHA256 is Digest.Validate for the one algorithm there is here. By hand, for a
// collection asks it of a million.
func IsSHA256(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && spelling.Hex(hex, 64)
}

// KeyID is the key that a snapshot is encrypted with; false for a plain one.
func (sn *Snapshot) KeyID() (keyring.ID, bool) {
	id, err := keyring.ParseID(sn.Spec.Key)
	return id, err == nil
}

// Means says whether d is the digest that the manifest has, or one that means
// the same snapshot.
func (sn *Snapshot) Means(d digest.Digest) bool {
	return sn.ManifestDigest == d || slices.Contains(sn.Meta.Former, d)
}

// Usable refuses what must not be restored, exported or built upon.
func (sn *Snapshot) Usable() error {
	if sn.State == Ready {
		return nil
	}
	return failure.Hint(failure.New(failure.Damaged, "snapshot %s is %s", sn.ID, sn.State),
		"see what is wrong with: "+hint.VerifyData.Of(string(sn.ID))+"; try "+hint.Repair.Of())
}

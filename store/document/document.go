// Package document is what is written of a snapshot, and nothing of where: what its
// documents say, how they are encoded, and what is refused of them before anything
// below relies on it. It opens no file.
//
// A Snapshot is read from three. The manifest is OCI's and names every blob by
// digest. The spec, the config blob of the manifest, never changes; anybody may have
// written it. Meta, meta.json, may change, is this store's own and comes with no
// snapshot from elsewhere: its name, its labels, where it came from (Origin), whether
// damage was found (Quarantine), and which other manifests mean it (Former).
//
// What comes from elsewhere is read by DecodeManifest and ReadSpec alone, which bound
// each part before it is looked at.
package document

import "github.com/cocoonv2/cocoon/internal/base/durable"

// Bounds, bytes.
const (
	ManifestLimit = 64 << 20
	SpecLimit     = 16 << 20
	BlobLimit     = 256 << 20 // of what is loaded whole: specs, maps, CH documents
)

// The files, and the blob, that the documents are.
var (
	MetaFile     = durable.Document{Name: "meta.json", Limit: 1 << 20}
	ManifestFile = durable.Document{Name: "manifest.json", Limit: ManifestLimit}
	SpecFile     = durable.Document{Name: "snapshot config", Limit: SpecLimit}
)

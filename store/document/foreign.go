package document

import (
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// What comes from elsewhere was perhaps made to cost as much as can be: the work
// and the memory that it takes grow with the bytes that come, and each of its
// parts is bounded before it is looked at (docs/transfer.md, "Bounds").
const (
	foreignLayers = 1 << 16 // blobs of a manifest; 16,384 are a TiB of packs

	foreignPackBytes   = 64 << 20 // pack.MaxPackBytes
	foreignSpecBytes   = 4 << 20
	foreignConfigBytes = 4 << 20  // of the VMM
	foreignStateBytes  = 64 << 20 // of the VMM, some 60 KB a processor
	foreignMapBytes    = BlobLimit

	foreignRanges   = 1024 // of RAM
	foreignDisks    = 1024
	foreignImages   = 1024
	foreignNetworks = 256
)

// DecodeManifest reads a manifest made elsewhere, without its blobs.
func DecodeManifest(b []byte) (*Snapshot, error) {
	if int64(len(b)) > ManifestLimit {
		return nil, failure.New(failure.Damaged, "manifest of %d bytes", len(b))
	}
	sn := &Snapshot{State: Ready}
	if err := sn.ReadManifest(b); err != nil {
		return nil, err
	}
	m := &sn.Manifest
	if len(m.Layers) > foreignLayers || m.Config.Size > foreignSpecBytes {
		return nil, failure.New(failure.Damaged, "manifest: %d layers, config of %d bytes", len(m.Layers), m.Config.Size)
	}
	for _, l := range m.Layers {
		if l.MediaType == MediaTypePack && l.Size > foreignPackBytes {
			return nil, failure.New(failure.Damaged, "manifest: pack %s of %d bytes", l.Digest, l.Size)
		}
	}
	return sn, nil
}

// ReadSpec reads the spec of a snapshot from elsewhere; its manifest is known. The
// bytes are of the digest that this names.
func (sn *Snapshot) ReadSpec(b []byte) error {
	if len(b) > foreignSpecBytes {
		return failure.New(failure.Damaged, "snapshot config of %d bytes", len(b))
	}
	sp, err := DecodeSpec(b)
	if err != nil {
		return err
	}
	sn.Spec, sn.ID = sp, sp.ID
	for _, n := range []struct {
		what     string
		has, may int
	}{{"RAM ranges", len(sp.Memory), foreignRanges}, {"disks", len(sp.Disks), foreignDisks}, {"images", len(sp.Images), foreignImages}, {"networks", len(sp.Networks), foreignNetworks}} {
		if n.has > n.may {
			return failure.New(failure.Damaged, "snapshot config: %d %s, at most %d are taken from elsewhere", n.has, n.what, n.may)
		}
	}
	return sn.boundDocuments()
}

// boundDocuments holds what will be parsed to sizes that it can have.
func (sn *Snapshot) boundDocuments() error {
	sizes := map[digest.Digest]int64{}
	for _, l := range sn.Manifest.Layers {
		sizes[l.Digest] = max(sizes[l.Digest], l.Size)
	}
	most := map[digest.Digest]int64{sn.Spec.CHConfig: foreignConfigBytes}
	least := func(d digest.Digest, n int64) {
		if have, ok := most[d]; !ok || n < have {
			most[d] = n
		}
	}
	least(sn.Spec.CHState, foreignStateBytes)
	for _, d := range sn.Spec.PageMaps() {
		least(d, foreignMapBytes)
	}
	for d, n := range most {
		if sizes[d] > n {
			return failure.New(failure.Damaged, "blob %s has %d bytes, at most %d are taken of its kind from elsewhere", d, sizes[d], n)
		}
	}
	return nil
}

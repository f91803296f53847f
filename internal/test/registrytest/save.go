package registrytest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Save writes the layout to a new folder; the answer is the manifest's digest.
func (l *Layout) Save(dir string) (digest.Digest, error) {
	if _, err := l.seal(); err != nil {
		return "", err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{l.root}}
	if l.bundle != nil {
		index.Manifests = append(index.Manifests, *l.bundle)
	}
	ib, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	files := map[string][]byte{
		ocispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`), ocispec.ImageIndexFile: ib,
	}
	for d, b := range l.blobs {
		files[filepath.Join("blobs", "sha256", d.Encoded())] = b
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return "", err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return "", err
		}
	}
	return l.root.Digest, nil
}

// Plant puts the snapshot into the store at root, unjudged, with this meta.json; the
// answer is its id. Images that it brings lie in the store beside those that are
// there.
func (l *Layout) Plant(root, meta string) (string, error) {
	manifest, err := l.seal()
	if err != nil {
		return "", err
	}
	images := map[digest.Digest]bool{}
	if l.bundle != nil {
		var m ocispec.Manifest
		if err := json.Unmarshal(l.blobs[l.bundle.Digest], &m); err != nil {
			return "", err
		}
		for _, layer := range m.Layers {
			images[layer.Digest] = true
		}
	}
	for d, b := range l.blobs {
		folder := "blobs"
		if images[d] {
			folder = filepath.Join("images", "blobs")
		}
		path := filepath.Join(root, folder, "sha256", d.Encoded())
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, b, 0o400); err != nil {
			return "", err
		}
	}
	id, err := l.Get("spec.id")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "snapshots", fmt.Sprint(id))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), []byte(meta), 0o600); err != nil {
		return "", err
	}
	return fmt.Sprint(id), os.WriteFile(filepath.Join(dir, "manifest.json"), manifest, 0o600)
}

// Package registrytest forges snapshots: it takes a whole one, as an OCI image
// layout that cocoon exported, lets a test change what its documents say, and makes
// all digests right again, so that what is refused is refused for what it says.
//
// A document is changed at a path of keys and places with dots between them, from
// one of the roots spec, config, state and manifest:
//
//	l.Set("spec.record.disks.0.serial", `"x,path=/etc/shadow"`)
//
// A forgery has a new id unless KeepID says otherwise. It is saved as a layout, or
// planted in a store as if a program that judged less had taken it in.
package registrytest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layout is a snapshot whose documents can be changed.
type Layout struct {
	KeepID bool // else Save and Plant give it a new one

	docs   map[string]any // spec, config, state, manifest
	blobs  map[digest.Digest][]byte
	root   ocispec.Descriptor
	bundle *ocispec.Descriptor
	old    map[string]digest.Digest // of spec, config, state as they were
}

// Load reads a layout of one snapshot, with or without its images.
func Load(dir string) (*Layout, error) {
	l := &Layout{docs: map[string]any{}, blobs: map[digest.Digest][]byte{}, old: map[string]digest.Digest{}}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		l.blobs[digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path))] = b
	}
	b, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) < 1 {
		return nil, fmt.Errorf("%s: no manifest", dir)
	}
	l.root = index.Manifests[0]
	if len(index.Manifests) > 1 {
		l.bundle = &index.Manifests[1]
	}
	return l, l.decode()
}

// decode reads the documents, each named by the one before.
func (l *Layout) decode() error {
	read := func(name string, d digest.Digest) error {
		doc, err := decode(l.blobs[d])
		if err != nil {
			return fmt.Errorf("%s %s: %w", name, d, err)
		}
		l.docs[name], l.old[name] = doc, d
		return nil
	}
	if err := read("manifest", l.root.Digest); err != nil {
		return err
	}
	for _, doc := range [][2]string{{"spec", "manifest.config.digest"}, {"config", "spec.chConfig"}, {"state", "spec.chState"}} {
		d, err := l.Get(doc[1])
		if err != nil {
			return err
		}
		if err := read(doc[0], digest.Digest(fmt.Sprint(d))); err != nil {
			return err
		}
	}
	return nil
}

// seal makes ids and digests right: the manifest's bytes.
func (l *Layout) seal() ([]byte, error) {
	if !l.KeepID {
		var id [16]byte
		rand.Read(id[:])
		if err := l.put("spec.id", hex.EncodeToString(id[:])); err != nil {
			return nil, err
		}
	}
	for _, doc := range [][2]string{{"config", "spec.chConfig"}, {"state", "spec.chState"}} {
		d, size, err := l.store(doc[0])
		if err != nil {
			return nil, err
		}
		if err := l.put(doc[1], string(d)); err != nil {
			return nil, err
		}
		l.layer(l.old[doc[0]], d, size)
		l.old[doc[0]] = d
	}
	d, size, err := l.store("spec")
	if err != nil {
		return nil, err
	}
	for key, value := range map[string]any{"manifest.config.digest": string(d), "manifest.config.size": size} {
		if err := l.put(key, value); err != nil {
			return nil, err
		}
	}
	d, _, err = l.store("manifest")
	if err != nil {
		return nil, err
	}
	l.root.Digest, l.root.Size = d, int64(len(l.blobs[d]))
	return l.blobs[d], l.rebind()
}

// store encodes a document as a blob.
func (l *Layout) store(name string) (digest.Digest, int, error) {
	b, err := json.Marshal(l.docs[name])
	d := digest.FromBytes(b)
	l.blobs[d] = b
	return d, len(b), err
}

// layer gives a layer of the manifest its new digest.
func (l *Layout) layer(old, now digest.Digest, size int) {
	layers, _ := l.Get("manifest.layers")
	list, _ := layers.([]any)
	for _, x := range list {
		if m, ok := x.(map[string]any); ok && m["digest"] == string(old) {
			m["digest"], m["size"] = string(now), size
		}
	}
}

// rebind makes the bundle refer to the manifest as it is now.
func (l *Layout) rebind() error {
	if l.bundle == nil {
		return nil
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(l.blobs[l.bundle.Digest], &m); err != nil {
		return err
	}
	m.Subject = &ocispec.Descriptor{MediaType: l.root.MediaType, Digest: l.root.Digest, Size: l.root.Size}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.bundle.Digest, l.bundle.Size = digest.FromBytes(b), int64(len(b))
	l.blobs[l.bundle.Digest] = b
	return nil
}

package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/store"
)

// forgery is a layout folder that is changed by somebody who makes all digests
// fit again.
type forgery struct {
	t        testing.TB
	dir      string
	index    ocispec.Index
	manifest ocispec.Manifest
	spec     store.Spec
}

func openLayout(t testing.TB, dir string) *forgery {
	t.Helper()
	f := &forgery{t: t, dir: dir}
	f.read(filepath.Join(dir, "index.json"), &f.index)
	f.read(f.path(f.index.Manifests[0].Digest), &f.manifest)
	f.read(f.path(f.manifest.Config.Digest), &f.spec)
	return f
}

func (f *forgery) path(d digest.Digest) string {
	return filepath.Join(f.dir, "blobs", "sha256", d.Encoded())
}

func (f *forgery) read(path string, v any) {
	f.t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *forgery) blob(media string, b []byte) ocispec.Descriptor {
	f.t.Helper()
	d := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := os.WriteFile(f.path(d.Digest), b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *forgery) json(media string, v any) ocispec.Descriptor {
	f.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.blob(media, b)
}

// save writes the changed documents and answers the manifest's digest. What
// refers to the old manifest is made to refer to the new one.
func (f *forgery) save() digest.Digest {
	f.t.Helper()
	config := f.json(store.MediaTypeConfig, f.spec)
	config.Annotations = f.manifest.Config.Annotations
	f.manifest.Config = config
	root := f.json(ocispec.MediaTypeImageManifest, f.manifest)
	root.Annotations = f.index.Manifests[0].Annotations
	for i, d := range f.index.Manifests[1:] {
		var bundle ocispec.Manifest
		f.read(f.path(d.Digest), &bundle)
		bundle.Subject = &ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size}
		f.index.Manifests[i+1] = f.json(ocispec.MediaTypeImageManifest, bundle)
	}
	f.index.Manifests[0] = root
	b, err := json.Marshal(f.index)
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, "index.json"), b, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return root.Digest
}

// exported makes a layout of a snapshot.
func exported(t testing.TB, m *Mover, ref string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := m.ExportDir(t.Context(), ref, dir, true); err != nil {
		t.Fatal(err)
	}
	return dir
}

package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/repair"
)

// target is a store that takes in what fuzzing makes. The blobs of a good
// snapshot are here already.
type target struct {
	*Mover
	keep map[string]bool // their paths
}

func newTarget(f *testing.F, sn *store.Snapshot, from *Mover) *target {
	f.Helper()
	t := &target{newMover(f), map[string]bool{}}
	lease, err := t.Store.Lease(f.Context(), "test")
	if err != nil {
		f.Fatal(err)
	}
	defer lease.Release()
	for _, im := range sn.Spec.Images {
		file, err := os.Open(from.Images.Path(im.Digest))
		if err != nil {
			f.Fatal(err)
		}
		t.keep[t.Images.Path(im.Digest)] = true
		if err := errors.Join(t.Images.Land(f.Context(), lease, im.Digest, im.Bytes, file), file.Close()); err != nil {
			f.Fatal(err)
		}
	}
	for _, d := range sn.Manifest.Layers {
		b, err := os.ReadFile(from.Store.BlobPath(d.Digest))
		if err == nil {
			err = os.WriteFile(t.Store.BlobPath(d.Digest), b, 0o400)
		}
		if err != nil {
			f.Fatal(err)
		}
		t.keep[t.Store.BlobPath(d.Digest)] = true
	}
	return t
}

// check holds what came of an import to the promise: a whole snapshot, or
// nothing at all. It leaves the store as it was.
func (to *target) check(t *testing.T, sn *store.Snapshot, err error) {
	t.Helper()
	nothingLeft(t, to.Mover)
	ids, lerr := to.Store.IDs()
	if lerr != nil || (err == nil) != (len(ids) == 1) {
		t.Fatalf("%v is published after %v (%v)", ids, err, lerr)
	}
	if err == nil {
		rep, verr := repair.Verify(t.Context(), to.Store, ids, repair.VerifyOptions{ReadData: true})
		if verr != nil || len(rep.Damaged) > 0 || sn.ID != ids[0] {
			t.Fatalf("published as %s, but: %+v, %v", sn.ID, rep, verr)
		}
		docs := vm.Documents{Spec: &sn.Spec}
		if err := to.readDocuments(t.Context(), sn, &docs); err != nil {
			t.Error(err)
		}
		if _, err := vm.Agree(docs); err != nil {
			t.Errorf("published as what no restore takes: %v", err)
		}
		for _, im := range sn.Spec.Images {
			if _, err := os.Stat(to.Images.Path(im.Digest)); err != nil {
				t.Errorf("published without an image: %v", err)
			}
		}
	}
	for _, id := range ids {
		if err := os.RemoveAll(to.Store.Path("snapshots", string(id))); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{to.Store.Path("blobs", "sha256"), to.Store.Path("images", "blobs", "sha256")} {
		files, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if to.keep[path] {
				continue
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// shelf is an origin of blobs by digest; all of its bundles refer to everything.
type shelf struct {
	blobs   map[digest.Digest][]byte
	bundles [][]byte
}

func (s shelf) put(media string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	s.blobs[d] = b
	return ocispec.Descriptor{MediaType: media, Digest: d, Size: int64(len(b))}
}

func (s shelf) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdef.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s shelf) Bundles(context.Context, ocispec.Descriptor) ([][]byte, error) { return s.bundles, nil }

// places turns digests and sizes of blobs into names and back, so that documents
// that are changed still name blobs which are there.
type places []struct {
	name string
	ocispec.Descriptor
}

func (p places) hide(b []byte) []byte {
	for _, x := range p {
		b = bytes.ReplaceAll(b, []byte(x.Digest), []byte("@"+x.name))
		b = bytes.ReplaceAll(b, []byte(`"@`+x.name+`","size":`+strconv.FormatInt(x.Size, 10)), []byte(`"@`+x.name+`","size":@size-`+x.name))
	}
	return b
}

func (p places) fill(b []byte) []byte {
	for _, x := range p {
		b = bytes.ReplaceAll(b, []byte("@size-"+x.name), []byte(strconv.FormatInt(x.Size, 10)))
		b = bytes.ReplaceAll(b, []byte("@"+x.name), []byte(x.Digest))
	}
	return b
}

// FuzzTake: whatever a registry says that a snapshot is, a whole one is
// published here or nothing is left of it.
func FuzzTake(f *testing.F) {
	from := newMover(f)
	sn := publish(f, from, "first", nil)
	to := newTarget(f, sn, from)
	var known places
	for _, l := range sn.Manifest.Layers {
		name := strings.TrimPrefix(l.MediaType, "application/vnd.cocoon.")
		known = append(known, struct {
			name string
			ocispec.Descriptor
		}{name[:strings.Index(name, ".v1")], l})
	}
	var compact bytes.Buffer
	indented, err := contents.Of(from.Store, sn).Manifest()
	if err = errors.Join(err, json.Compact(&compact, indented)); err != nil {
		f.Fatal(err)
	}
	manifest := compact.Bytes()
	spec, err := from.Store.ReadBlob(f.Context(), sn.Manifest.Config.Digest)
	if err != nil {
		f.Fatal(err)
	}
	all := append(places{{"spec", sn.Manifest.Config}}, known...)
	bundle := []byte(`{"schemaVersion":2,"artifactType":"` + ArtifactTypeImages + `","config":{"digest":"@spec","size":@size-spec},"layers":[{"mediaType":"` + MediaTypeImage + `","digest":"@pack","size":@size-pack}]}`)
	f.Add(known.hide(spec), all.hide(manifest), bundle)
	kernel := sn.Spec.Images[0] // which the second seed gets by the bundle
	elsewhere := places{{"pack", ocispec.Descriptor{Digest: kernel.Digest}}}.hide(known.hide(spec))
	f.Add(bytes.ReplaceAll(elsewhere, fmt.Appendf(nil, `"bytes":%d`, kernel.Bytes), []byte(`"bytes":@size-pack`)), all.hide(manifest), bundle)
	f.Fuzz(func(t *testing.T, spec, manifest, bundle []byte) {
		s := shelf{blobs: map[digest.Digest][]byte{}}
		for _, x := range known {
			b, err := os.ReadFile(to.Store.BlobPath(x.Digest))
			if err != nil {
				t.Fatal(err)
			}
			s.put(x.MediaType, b)
		}
		all := append(places{{"spec", s.put(store.MediaTypeConfig, known.fill(spec))}}, known...)
		filled := all.fill(manifest)
		root := s.put(ocispec.MediaTypeImageManifest, filled)
		s.bundles = [][]byte{all.fill(bundle)}
		got, err := to.take(t.Context(), s, root, filled, PullOptions{Meta: store.Meta{Origin: &store.Origin{Imported: "there"}}})
		to.check(t, got, err)
	})
}

// FuzzImportTar: so for any file that is said to be an archive.
func FuzzImportTar(f *testing.F) {
	from := newMover(f)
	sn := publish(f, from, "first", nil)
	to := newTarget(f, sn, from)
	path := filepath.Join(f.TempDir(), "layout.tar")
	if _, err := from.ExportTarFile(f.Context(), "first", path, false); err != nil {
		f.Fatal(err)
	}
	small := documentsOf(f, path)
	f.Add(small)
	f.Add(small[:len(small)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := to.ImportFile(t.Context(), path, "", PullOptions{})
		to.check(t, got, err)
	})
}

// documentsOf is an archive without its large files, which the target has.
func documentsOf(f *testing.F, path string) []byte {
	f.Helper()
	file, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.Fatal(err)
		}
		if h.Size > 4096 {
			continue
		}
		err = w.WriteHeader(h)
		if err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return out.Bytes()
}

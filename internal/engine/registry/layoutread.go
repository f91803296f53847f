package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
)

// Bounds of the documents of a layout.
const (
	layoutFileLimit = 4 << 10
	indexLimit      = 4 << 20
	// candidatesLimit is how many manifests are read to find the snapshot among them.
	candidatesLimit = 256
)

// files are those of a layout, wherever they are. A missing file is
// fs.ErrNotExist.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
}

// folder is an untrusted layout folder: nothing outside it is opened.
type folder struct{ *os.Root }

func (f folder) open(name string) (io.ReadCloser, int64, error) {
	file, err := durable.OpenRegular(f.Root, filepath.FromSlash(name))
	if err != nil {
		return nil, 0, err
	}
	fi, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, fi.Size(), nil
}

// layout is an OCI image layout.
type layout struct {
	files
	index ocispec.Index
}

// readLayout reads the two files that describe a layout.
func readLayout(f files) (*layout, error) {
	l := &layout{files: f}
	var version ocispec.ImageLayout
	for _, x := range []struct {
		name  string
		limit int64
		to    any
	}{{ocispec.ImageLayoutFile, layoutFileLimit, &version}, {ocispec.ImageIndexFile, indexLimit, &l.index}} {
		b, err := l.small(x.name, x.limit)
		if err == nil {
			err = json.Unmarshal(b, x.to)
		}
		if err != nil {
			return nil, failure.New(failure.Damaged, "no OCI image layout: %s: %w", x.name, err)
		}
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return nil, failure.New(failure.Incompatible, "the layout has version %.20q, %s is known", version.Version, ocispec.ImageLayoutVersion)
	}
	return l, nil
}

func (l *layout) small(name string, limit int64) ([]byte, error) {
	r, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, failure.New(failure.Damaged, "it has %d bytes, at most %d are expected", size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) != size {
		err = failure.New(failure.Damaged, "%d of its %d bytes are there", len(b), size)
	}
	return b, err
}

// Fetch opens a blob.
func (l *layout) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return nil, failure.New(failure.Damaged, "blob %.80q: digests are SHA-256 here", string(d.Digest))
	}
	r, size, err := l.open(path.Join(ocispec.ImageBlobsDir, "sha256", d.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.New(failure.Damaged, "the layout does not hold blob %s, which its manifest names", d.Digest)
	}
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		return nil, errors.Join(failure.New(failure.Damaged, "blob %s has %d bytes in the layout, want %d", d.Digest, size, d.Size), r.Close())
	}
	return r, nil
}

func (l *layout) manifest(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > manifestLimit {
		return nil, failure.New(failure.Damaged, "manifest %s has %d bytes", d.Digest, d.Size)
	}
	return fetchAll(ctx, l, d)
}

// Bundles reads the manifests that lie beside that of a snapshot and refer to it.
func (l *layout) Bundles(ctx context.Context, root ocispec.Descriptor) ([][]byte, error) {
	var out [][]byte
	for _, d := range l.candidates(root.Digest) {
		b, err := l.manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		var m ocispec.Manifest
		if json.Unmarshal(b, &m) == nil && m.Subject != nil && m.Subject.Digest == root.Digest {
			out = append(out, b)
		}
	}
	return out, nil
}

// candidates are the manifests that the index names, but for one, each once.
func (l *layout) candidates(but digest.Digest) (all []ocispec.Descriptor) {
	seen := map[digest.Digest]bool{but: true}
	for _, d := range l.index.Manifests {
		if d.MediaType != ocispec.MediaTypeImageManifest || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if all = append(all, d); len(all) == candidatesLimit {
			break
		}
	}
	return all
}

// choose returns the snapshot of a tag or digest; for "" the only one there is.
func (l *layout) choose(ctx context.Context, tag string) (root ocispec.Descriptor, manifest []byte, err error) {
	all, err := l.snapshots(ctx)
	if err != nil {
		return root, nil, err
	}
	var found []ocispec.Descriptor
	for _, d := range all {
		if tag == "" || string(d.Digest) == tag || slices.Contains(l.tags(d.Digest), tag) {
			found = append(found, d)
		}
	}
	switch {
	case len(all) == 0:
		return root, nil, failure.New(failure.Damaged, "the layout holds no snapshot: none of its %d manifests is of type %s", len(l.index.Manifests), store.ArtifactType)
	case len(found) == 0:
		return root, nil, failure.Hint(failure.New(failure.NotFound, "the layout holds no snapshot %q", tag), l.ways(all))
	case len(found) > 1:
		return root, nil, failure.Hint(failure.New(failure.Usage, "the layout holds %d snapshots", len(found)), l.ways(found))
	}
	b, err := l.manifest(ctx, found[0])
	return found[0], b, err
}

// snapshots are the manifests of snapshots, by what they say themselves where the
// index says nothing.
func (l *layout) snapshots(ctx context.Context) (found []ocispec.Descriptor, err error) {
	for _, d := range l.candidates("") {
		kind := d.ArtifactType
		if kind == "" {
			b, err := l.manifest(ctx, d)
			if err != nil {
				return nil, err
			}
			var m ocispec.Manifest
			if json.Unmarshal(b, &m) == nil {
				kind = m.ArtifactType
			}
		}
		if kind == store.ArtifactType {
			found = append(found, d)
		}
	}
	return found, nil
}

func (l *layout) tags(d digest.Digest) (tags []string) {
	for _, m := range l.index.Manifests {
		if name := m.Annotations[ocispec.AnnotationRefName]; m.Digest == d && name != "" {
			tags = append(tags, name)
		}
	}
	return tags
}

// ways says how each of some snapshots is asked for.
func (l *layout) ways(ds []ocispec.Descriptor) string {
	var names []string
	for _, d := range ds {
		tags := l.tags(d.Digest)
		if len(tags) == 0 {
			tags = []string{string(d.Digest)}
		}
		names = append(names, fmt.Sprintf("%q", tags[0]))
	}
	return "choose one with " + hint.Tag.Of() + ": " + strings.Join(names[:min(len(names), 16)], " ")
}

// IsLayout tells whether a folder is an OCI image layout.
func IsLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil
}

// ImportDir imports the snapshot of an untrusted layout folder: nothing outside
// it is opened. tag chooses among several.
func (m *Mover) ImportDir(ctx context.Context, dir, tag string, o PullOptions) (*store.Snapshot, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, failure.New(failure.NotFound, "import %s: %w", dir, err)
	}
	defer root.Close()
	return m.importLayout(ctx, folder{root}, dir, tag, o)
}

func (m *Mover) importLayout(ctx context.Context, f files, from, tag string, o PullOptions) (*store.Snapshot, error) {
	o.Meta.Origin = &store.Origin{Imported: from}
	sn, err := func() (*store.Snapshot, error) {
		l, err := readLayout(f)
		if err != nil {
			return nil, err
		}
		root, manifest, err := l.choose(ctx, tag)
		if err != nil {
			return nil, err
		}
		return m.take(ctx, l, root, manifest, o)
	}()
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", from, err)
	}
	return sn, nil
}

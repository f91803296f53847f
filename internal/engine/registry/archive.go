package registry

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
)

// An archive is a tar of a layout, which may be in a subfolder. A seekable file
// is read in place; a stream, such as a pipe or a compressed file, is first
// unpacked in the store's ingest: only the files that belong to a layout, each
// under its name in the layout.

const (
	entriesLimit = 1 << 17 // of an archive
	ignoredLimit = 1 << 30 // bytes of entries that belong to no layout
	trailerLimit = 1 << 20 // read behind the end, for the sake of who writes it
)

// ImportFile imports an archive: a file, or a source that can only be read once.
func (m *Mover) ImportFile(ctx context.Context, name, tag string, o PullOptions) (*store.Snapshot, error) {
	f, err := openWaiting(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "import %s: no such file", name)
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	head := make([]byte, headBytes)
	if fi.Mode().IsRegular() {
		n, err := f.ReadAt(head, 0)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("import %s: %w", name, err)
		}
		if n > 0 && !isArchive(head[:n]) {
			return nil, notArchive(name)
		}
		if kind := compressed(head[:n]); kind == "" && n > 0 {
			return m.importTar(ctx, f, name, tag, o)
		}
	}
	return m.importStream(ctx, f, name, tag, o)
}

// ImportStream imports an archive from a stream, compressed or not.
func (m *Mover) ImportStream(ctx context.Context, r io.Reader, tag string, o PullOptions) (*store.Snapshot, error) {
	return m.importStream(ctx, r, "the archive", tag, o)
}

func (m *Mover) importStream(ctx context.Context, r io.Reader, name, tag string, o PullOptions) (*store.Snapshot, error) {
	lease, err := m.Store.Lease(ctx, "snapshot import: laying out an archive")
	if err != nil {
		return nil, err
	}
	defer lease.Release() // what was laid out goes with it
	in, err := m.Store.Ingest(ctx, lease)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(in.Dir(), "archive")
	if err := m.layOut(ctx, r, dir); err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return m.importLayout(ctx, folder{root}, name, tag, o)
}

// headBytes of an archive tell what it is.
const headBytes = 512

// compressions are recognised by their first bytes; read says which are
// supported.
var compressions = []struct {
	kind, begins string
	read         bool
}{
	{"gzip", "\x1f\x8b", true},
	{"zstd", "\x28\xb5\x2f\xfd", true},
	{"xz", "\xfd7zXZ\x00", false},
	{"bzip2", "BZh", false},
	{"lz4", "\x04\x22\x4d\x18", false},
	{"zip", "PK\x03\x04", false},
}

func compressed(head []byte) string {
	for _, c := range compressions {
		if bytes.HasPrefix(head, []byte(c.begins)) {
			return c.kind
		}
	}
	return ""
}

// tarMagic is at this offset of every tar but the oldest.
const tarMagic, tarMagicAt = "ustar", 257

// isArchive: a file that begins so is an archive, though possibly a damaged one.
func isArchive(head []byte) bool {
	cut := len(head) < headBytes // within the first header
	if cut || compressed(head) != "" || bytes.HasPrefix(head[tarMagicAt:], []byte(tarMagic)) {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// notArchive refuses what is likely a disk or a kernel.
func notArchive(name string) error {
	return failure.Hint(failure.New(failure.Usage, "%s is no snapshot: neither an archive of an OCI image layout (tar, tar.gz, tar.zst) nor a folder", name),
		"if it is a disk or a kernel: "+hint.ImportImage.Of(name)+" "+hint.Name.Of()+" NAME")
}

// expand returns the tar in a stream.
func expand(r *bufio.Reader) (io.ReadCloser, error) {
	head, err := r.Peek(headBytes)
	if len(head) == 0 {
		if err == io.EOF {
			return nil, failure.New(failure.Damaged, "the archive is empty (did the command before the pipe fail?)")
		}
		return nil, err
	}
	switch kind := compressed(head); kind {
	case "":
		return io.NopCloser(r), nil
	case "gzip":
		return newExpansion(r, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) })
	case "zstd":
		return newExpansion(r, pack.Unzstd)
	default:
		return nil, failure.Hint(failure.New(failure.Incompatible, "the archive is compressed with %s; tar, tar.gz and tar.zst are read", kind),
			"expand it first: "+kind+" -dc FILE | "+hint.Import.Of("-"))
	}
}

// expansion is what a compressed stream holds. Errors that are not the stream's own
// say that it is damaged.
type expansion struct {
	io.ReadCloser
	from *source
}

// source remembers the error of a stream.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func newExpansion(r io.Reader, open func(io.Reader) (io.ReadCloser, error)) (io.ReadCloser, error) {
	e := &expansion{from: &source{r: r}}
	var err error
	if e.ReadCloser, err = open(e.from); err != nil {
		return nil, e.explain(err)
	}
	return e, nil
}

func (e *expansion) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	return n, e.explain(err)
}

func (e *expansion) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if e.from.err != nil {
		return e.from.err
	}
	return failure.New(failure.Damaged, "the archive cannot be expanded: %w", err)
}

// layOut writes the files of the layout in a stream below dir.
func (m *Mover) layOut(ctx context.Context, from io.Reader, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // whoever reads ahead stops
	r, err := expand(bufio.NewReaderSize(newHeeding(ctx, from), 1<<16))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o700); err != nil {
		return err
	}
	err = eachEntry(ctx, r, func(name string, h *tar.Header, body io.Reader) error {
		if err := m.Store.Space().Require(h.Size); err != nil {
			return err
		}
		return writeFile(filepath.Join(dir, filepath.FromSlash(name)), h.Size, body)
	})
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, r, trailerLimit)
	return nil
}

// eachEntry visits the files of the layout in a tar, under their names in the
// layout and each once. Links, devices and anything that belongs to no layout are
// skipped.
func eachEntry(ctx context.Context, r io.Reader, visit func(name string, h *tar.Header, body io.Reader) error) error {
	t := tar.NewReader(r)
	seen, above := map[string]bool{}, ""
	var ignored int64
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broke(ctx, err)
		}
		dir, name := layoutName(h.Name)
		if name == "" || h.Typeflag != tar.TypeReg {
			if ignored += h.Size; ignored > ignoredLimit || n > entriesLimit {
				return failure.New(failure.Damaged, "the archive holds much that belongs to no OCI image layout")
			}
			continue
		}
		if len(seen) > 0 && dir != above || len(seen) > entriesLimit || seen[name] {
			return failure.New(failure.Damaged, "the archive holds %.80q and others, more than one layout has", h.Name)
		}
		seen[name], above = true, dir
		if err := visit(name, h, t); err != nil {
			return broke(ctx, err)
		}
	}
}

// layoutName splits the name of an entry into the folder of the layout and the
// name within, "" if a layout has no such file.
func layoutName(entry string) (above, name string) {
	entry = path.Clean("/" + entry)[1:]
	dir, base := path.Split(entry)
	if base == ocispec.ImageLayoutFile || base == ocispec.ImageIndexFile {
		return dir, base
	}
	blobs := path.Join(ocispec.ImageBlobsDir, "sha256") + "/"
	if above, ok := strings.CutSuffix(dir, blobs); ok && spelling.Hex(base, 64) {
		return above, blobs + base
	}
	return "", ""
}

// broke explains why an archive cannot be read to its end.
func broke(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, failure.Damaged):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failure.New(failure.Damaged, "the archive ends early: %w", err)
	case errors.Is(err, tar.ErrHeader):
		return failure.New(failure.Damaged, "this is no tar file: %w", err)
	}
	return err
}

// tarFile is a layout in a seekable tar.
type tarFile struct {
	f  *os.File
	at map[string]extent
}

type extent struct{ offset, bytes int64 }

func (t *tarFile) open(name string) (io.ReadCloser, int64, error) {
	e, ok := t.at[name]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(t.f, e.offset, e.bytes)), e.bytes, nil
}

func (m *Mover) importTar(ctx context.Context, f *os.File, name, tag string, o PullOptions) (*store.Snapshot, error) {
	t := &tarFile{f: f, at: map[string]extent{}}
	err := eachEntry(ctx, f, func(name string, h *tar.Header, _ io.Reader) error {
		at, err := f.Seek(0, io.SeekCurrent) // of its first byte: nothing is read ahead
		t.at[name] = extent{at, h.Size}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	return m.importLayout(ctx, t, name, tag, o)
}

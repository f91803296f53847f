package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// archived is a snapshot's layout as a tar.
func archived(t *testing.T, m *Mover, ref string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.ExportTar(t.Context(), ref, &b, true); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func zstandard(b []byte) []byte {
	return must(zstd.NewWriter(nil)).EncodeAll(b, nil)
}

// retar makes a tar of the files of another.
func retar(t *testing.T, b []byte, change func(*tar.Header, []byte) []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		body, rerr := io.ReadAll(r)
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		body = change(h, body)
		if h.Name == "" {
			continue
		}
		h.Size = int64(len(body))
		err = w.WriteHeader(h)
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchivesOfAnyKindAreRead(t *testing.T) {
	a := newMover(t)
	sn := publish(t, a, "first", nil)
	plain := archived(t, a, "first")
	below := retar(t, plain, func(h *tar.Header, b []byte) []byte { h.Name = "./lay/" + h.Name; return b })
	reversed := func() []byte { // what describes the layout comes last
		var names []string
		var out bytes.Buffer
		files := map[string][]byte{}
		retar(t, plain, func(h *tar.Header, b []byte) []byte {
			names, files[h.Name] = append(names, h.Name), b
			return b
		})
		slices.Reverse(names)
		w := tar.NewWriter(&out)
		for _, n := range names {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(files[n])), Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			must(w.Write(files[n]))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}()
	for name, b := range map[string][]byte{
		"tar": plain, "gzip": gzipped(plain), "zstd": zstandard(plain), "in a folder": below, "gzip in a folder": gzipped(below),
		"the other way round": reversed, "without its end": bytes.TrimRight(plain, "\x00"),
	} {
		for way, take := range map[string]func(*Mover, string) (*store.Snapshot, error){
			"file": func(m *Mover, path string) (*store.Snapshot, error) {
				return m.ImportFile(t.Context(), path, "", PullOptions{})
			},
			"stream": func(m *Mover, path string) (*store.Snapshot, error) {
				return m.ImportStream(t.Context(), must(os.Open(path)), "", PullOptions{})
			},
			"named pipe": func(m *Mover, path string) (*store.Snapshot, error) {
				fifo := path + ".fifo"
				if err := unix.Mkfifo(fifo, 0o600); err != nil {
					return nil, err
				}
				go func() {
					w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
					if err == nil {
						_, _ = w.Write(b)
						w.Close()
					}
				}()
				return m.ImportFile(t.Context(), fifo, "", PullOptions{})
			},
			"descriptor": func(m *Mover, path string) (*store.Snapshot, error) {
				r, w, err := os.Pipe()
				if err != nil {
					return nil, err
				}
				defer r.Close()
				go func() { _, _ = w.Write(b); w.Close() }()
				return m.ImportFile(t.Context(), "/dev/fd/"+fmtInt(r.Fd()), "", PullOptions{})
			},
		} {
			t.Run(name+" as "+way, func(t *testing.T) {
				m := newMover(t)
				path := filepath.Join(t.TempDir(), "archive")
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := take(m, path)
				if err != nil {
					t.Fatal(err)
				}
				same(t, m, sn, got)
			})
		}
	}
}

func fmtInt(n uintptr) string { return string(must(json.Marshal(n))) }

// TestWhatIsNoArchiveIsSaidToBeNone, whether it is a file or a stream; nothing is
// left of it.
func TestWhatIsNoArchiveIsSaidToBeNone(t *testing.T) {
	a := newMover(t)
	publish(t, a, "first", nil)
	plain := archived(t, a, "first")
	junk := func(h *tar.Header, b []byte) []byte { h.Name = "etc/x-" + filepath.Base(h.Name); return b }
	for name, tc := range map[string]struct {
		b    []byte
		want error
		says string
	}{
		"nothing":         {nil, failure.Damaged, "did the command before the pipe fail?"},
		"zeros":           {make([]byte, 1<<20), failure.Damaged, "oci-layout"},
		"text":            {bytes.Repeat([]byte("no tar\n"), 1000), failure.Damaged, "no tar file"},
		"a short one":     {plain[:100], failure.Damaged, ""},
		"cut at 1024":     {plain[:1024], failure.Damaged, "index.json"},
		"cut in a blob":   {plain[:len(plain)-9000], failure.Damaged, ""},
		"gzip that ends":  {gzipped(plain)[:5000], failure.Damaged, ""},
		"gzip that rots":  {rotten(gzipped(plain)), failure.Damaged, ""},
		"zstd that rots":  {rotten(zstandard(plain)), failure.Damaged, ""},
		"gzip of nothing": {gzipped(nil), failure.Damaged, ""},
		"xz":              {[]byte("\xfd7zXZ\x00\x00\x04 and so on"), failure.Incompatible, "xz"},
		"bzip2":           {[]byte("BZh91AY&SY and so on"), failure.Incompatible, "bzip2"},
		"zip":             {[]byte("PK\x03\x04 and so on and on"), failure.Incompatible, "zip"},
		"other files":     {retar(t, plain, junk), failure.Damaged, "oci-layout"},
		"two layouts": {retar(t, plain, func(h *tar.Header, b []byte) []byte {
			if h.Name != "index.json" {
				h.Name = "other/" + h.Name
			}
			return b
		}), failure.Damaged, "more than one layout"},
		"a link for a blob": {retar(t, plain, func(h *tar.Header, b []byte) []byte {
			if strings.HasPrefix(h.Name, "blobs/") {
				h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc/passwd"
				return nil
			}
			return b
		}), failure.Damaged, ""},
		"a blob twice": {append(bytes.Clone(plain[:len(plain)-1024]), plain...), failure.Damaged, "more than one layout"},
	} {
		for _, way := range []string{"file", "stream"} {
			t.Run(name+" as "+way, func(t *testing.T) {
				tc := tc
				m := newMover(t)
				path := filepath.Join(t.TempDir(), "archive")
				if err := os.WriteFile(path, tc.b, 0o600); err != nil {
					t.Fatal(err)
				}
				var err error
				if way == "file" && (name == "zeros" || name == "text") { // it may be a disk or a kernel
					tc.want, tc.says = failure.Usage, "neither an archive"
				}
				if way == "file" {
					_, err = m.ImportFile(t.Context(), path, "", PullOptions{})
				} else {
					_, err = m.ImportStream(t.Context(), must(os.Open(path)), "", PullOptions{})
				}
				if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v, want %v that says %q", err, tc.want, tc.says)
				}
				nothingLeft(t, m)
			})
		}
	}
}

func rotten(b []byte) []byte {
	b[len(b)/2] ^= 0x55
	return b
}

// stuck is a stream that gives nothing until it is let go.
type stuck struct{ asked, release chan struct{} }

func (s stuck) Read([]byte) (int, error) {
	close(s.asked)
	<-s.release
	return 0, io.EOF
}

func TestAnImportIsCalledOff(t *testing.T) {
	m := newMover(t)
	t.Run("while nobody writes to the pipe", func(t *testing.T) {
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := m.ImportFile(ctx, fifo, "", PullOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	t.Run("while nothing comes", func(t *testing.T) {
		s := stuck{make(chan struct{}), make(chan struct{})}
		defer close(s.release)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-s.asked; cancel() }()
		if _, err := m.ImportStream(ctx, s, "", PullOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	nothingLeft(t, m)
}

// TestTheSnapshotOfALayoutIsFound: tools drop tags, add other artifacts, and put
// several snapshots into one layout.
func TestTheSnapshotOfALayoutIsFound(t *testing.T) {
	a := newMover(t)
	sn := publish(t, a, "first", nil)
	untag := func(f *forgery) {
		for i := range f.index.Manifests {
			f.index.Manifests[i].Annotations = nil
		}
	}
	noTypes := func(f *forgery) {
		untag(f)
		for i := range f.index.Manifests {
			f.index.Manifests[i].ArtifactType = ""
		}
	}
	other := func(f *forgery) {
		g := openLayout(t, exported(t, a, "first"))
		g.spec.ID = store.ID(strings.Repeat("ab", 16))
		g.save()
		for _, e := range must(os.ReadDir(filepath.Join(g.dir, "blobs", "sha256"))) {
			b := must(os.ReadFile(filepath.Join(g.dir, "blobs", "sha256", e.Name())))
			f.blob("", b)
		}
		f.index.Manifests = append(f.index.Manifests, g.index.Manifests[0])
	}
	for name, tc := range map[string]struct {
		change func(*forgery)
		tag    string
		want   error
		says   []string // in the hint
	}{
		"without a tag": {untag, "", nil, nil},
		"without types": {noTypes, "", nil, nil},
		"beside something else": {func(f *forgery) {
			untag(f)
			f.index.Manifests = append(f.index.Manifests, f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: ocispec.DescriptorEmptyJSON}))
		}, "", nil, nil},
		"tagged twice": {func(f *forgery) {
			d := f.index.Manifests[0]
			d.Annotations = map[string]string{ocispec.AnnotationRefName: "again"}
			f.index.Manifests = append(f.index.Manifests, d)
		}, "", nil, nil},
		"by its digest":       {other, string(sn.ManifestDigest), nil, nil},
		"two, tagged and not": {func(f *forgery) { other(f); f.index.Manifests[len(f.index.Manifests)-1].Annotations = nil }, "", failure.Usage, []string{"--tag", `"first"`, `"sha256:`}},
		"no such tag":         {untag, "v7", failure.NotFound, []string{string(sn.ManifestDigest)}},
		"something else alone": {func(f *forgery) {
			f.index.Manifests = []ocispec.Descriptor{f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: ocispec.DescriptorEmptyJSON})}
		}, "", failure.Damaged, nil},
		"no manifest":             {func(f *forgery) { f.index.Manifests = nil }, "", failure.Damaged, nil},
		"a manifest that is gone": {func(f *forgery) { noTypes(f); must(0, os.Remove(f.path(f.index.Manifests[0].Digest))) }, "", failure.Damaged, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := openLayout(t, exported(t, a, "first"))
			tc.change(f)
			if err := os.WriteFile(filepath.Join(f.dir, "index.json"), must(json.Marshal(f.index)), 0o600); err != nil {
				t.Fatal(err)
			}
			m := newMover(t)
			got, err := m.ImportDir(t.Context(), f.dir, tc.tag, PullOptions{})
			if tc.want == nil && err == nil {
				same(t, m, sn, got)
				return
			}
			if tc.want == nil || !errors.Is(err, tc.want) {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			for _, s := range tc.says {
				if !strings.Contains(failure.HintOf(err), s) {
					t.Errorf("hint %q lacks %q", failure.HintOf(err), s)
				}
			}
		})
	}
}

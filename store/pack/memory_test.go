package pack_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// shelf keeps packs in memory: a Sink and a Source.
type shelf struct {
	mu      sync.Mutex
	packs   map[digest.Digest][]byte
	aborted int
	open    int
	failAt  int // fail the n-th write, counted from 1
	writes  int
	ring    *keyring.Ring
}

func newShelf() *shelf { return &shelf{packs: map[digest.Digest][]byte{}} }

type shelfFile struct {
	s *shelf
	b bytes.Buffer
}

var errShelf = errors.New("shelf is full")

func (s *shelf) CreatePack(context.Context) (packer.PackFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return &shelfFile{s: s}, nil
}

func (f *shelfFile) Write(p []byte) (int, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.writes++
	if f.s.writes == f.s.failAt {
		return 0, errShelf
	}
	return f.b.Write(p)
}

func (f *shelfFile) Commit(_ context.Context, d digest.Digest, size int64) error {
	if digest.FromBytes(f.b.Bytes()) != d || int64(f.b.Len()) != size {
		return errors.New("digest or size of pack is wrong")
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.open--
	f.s.packs[d] = f.b.Bytes()
	return nil
}

func (f *shelfFile) Abort() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.open--
	f.s.aborted++
	return nil
}

type shelfReader struct{ *bytes.Reader }

func (shelfReader) Close() error { return nil }

func (s *shelf) OpenPack(_ context.Context, d digest.Digest) (pack.ReaderAtCloser, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.packs[d]
	if !ok {
		return nil, 0, failure.New(failure.NotFound, "no pack %s", d)
	}
	return shelfReader{bytes.NewReader(b)}, int64(len(b)), nil
}

func (s *shelf) Key(id keyring.ID) (*keyring.Key, error) { return s.ring.Key(id) }

func (s *shelf) bytes() (n int) {
	for _, b := range s.packs {
		n += len(b)
	}
	return n
}

// memoryTarget is a fresh WriterAt over a slice.
type memoryTarget []byte

func (m memoryTarget) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

// save stores one image read from r and gives its map.
func save(t testing.TB, s packer.Sink, r io.ReaderAt, size int64, parent *pack.Image) (*pack.Map, packer.Stats) {
	t.Helper()
	w := packer.NewWriter(t.Context(), s, packer.WriterOptions{})
	defer w.Abort()
	iw := w.Image(uint64(size), parent)
	if err := iw.ReadFrom(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	return finish(t, w, iw)
}

func finish(t testing.TB, w *packer.Writer, iw *packer.ImageWriter) (*pack.Map, packer.Stats) {
	t.Helper()
	st, err := w.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return m, st
}

func open(t testing.TB, s pack.Source, m *pack.Map) *pack.Image {
	t.Helper()
	im, err := pack.OpenImage(t.Context(), m, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

// load expands an image into memory.
func load(t testing.TB, s pack.Source, m *pack.Map) []byte {
	t.Helper()
	out := make(memoryTarget, m.Bytes)
	if err := open(t, s, m).WriteTo(t.Context(), out, 2, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

func fileWith(t *testing.T, b []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ram")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

package packer

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

var update = flag.Bool("update", false, "write the golden encrypted pack and map anew")

// memory is a Sink of one pack.
type memory struct{ bytes.Buffer }

func (m *memory) CreatePack(context.Context) (PackFile, error)       { return m, nil }
func (m *memory) Commit(context.Context, digest.Digest, int64) error { return nil }
func (m *memory) Abort() error                                       { return nil }

// TestUnderOneSaltAPackIsTheSame: what the Writer makes of the image of the golden
// encrypted pack is that pack, as long as frames are compressed as they were.
func TestUnderOneSaltAPackIsTheSame(t *testing.T) {
	var image []byte
	for _, colour := range []byte{1, 0, 2, 1, 3, 0, 0, 4} {
		page := make([]byte, pack.PageSize)
		if colour > 0 {
			ramgen.NewHard(1<<20, uint64(colour)).Page(page, 0)
			page[0], page[pack.PageSize-1] = colour, colour
		}
		image = append(image, page...)
	}
	image = image[:len(image)-100]
	k := keyring.FromSecret([32]byte{7})
	var made memory
	w := NewWriter(t.Context(), &made, WriterOptions{Key: k})
	defer w.Abort()
	w.out.random = bytes.NewReader(bytes.Repeat([]byte{0x5a}, 32))
	iw := w.Image(uint64(len(image)), nil)
	if err := iw.ReadFrom(t.Context(), bytes.NewReader(image), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	enc, err := m.EncodeFor(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"v2.pack": made.Bytes(), "v2.map": enc} {
		path := filepath.Join("..", "testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is another (%v)", name, err)
		}
	}
}

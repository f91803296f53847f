package pack_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Ranges of RAM follow each other in one file: each is expanded at its offset
// and touches nothing before it.
func TestImagesAreExpandedIntoAPartOfAFile(t *testing.T) {
	ram := ramgen.New(5<<20, 9)
	want := make([]byte, ram.Bytes())
	if _, err := ram.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	s := newShelf()
	m, _ := save(t, s, ram, ram.Bytes(), nil)
	path := filepath.Join(t.TempDir(), "out")
	before := bytes.Repeat([]byte{7}, 3*pack.PageSize)
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(before)) + ram.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := open(t, s, m).WriteTo(t.Context(), pack.At(f, int64(len(before))), 2, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:len(before)], before) || !bytes.Equal(got[len(before):], want) {
		t.Error("the part differs from the image, or what stands before it was touched")
	}
}

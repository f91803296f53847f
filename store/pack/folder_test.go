package pack_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// folder keeps packs as files: what benchmarks and zstd see.
type folder struct{ dir string }

type folderFile struct {
	*os.File
	dir string
}

func (f folder) CreatePack(context.Context) (packer.PackFile, error) {
	file, err := os.CreateTemp(f.dir, "new-")
	return folderFile{file, f.dir}, err
}

func (f folderFile) Commit(_ context.Context, d digest.Digest, _ int64) error {
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(f.dir, d.Encoded()))
}

func (f folderFile) Abort() error {
	f.Close()
	return os.Remove(f.Name())
}

func (f folder) OpenPack(_ context.Context, d digest.Digest) (pack.ReaderAtCloser, int64, error) {
	file, err := os.Open(filepath.Join(f.dir, d.Encoded()))
	if err != nil {
		return nil, 0, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	return file, st.Size(), nil
}

func (folder) Key(id keyring.ID) (*keyring.Key, error) { return keyring.None().Key(id) }

// empty removes all packs but those of keep.
func (f folder) empty(t testing.TB, keep *pack.Map) {
	t.Helper()
	held := map[string]bool{}
	if keep != nil {
		for _, d := range keep.Packs {
			held[d.Encoded()] = true
		}
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !held[e.Name()] {
			os.Remove(filepath.Join(f.dir, e.Name()))
		}
	}
}

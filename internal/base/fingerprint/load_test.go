package fingerprint

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// All processes of one boot have one key, whoever comes first; the secret is
// nobody else's to read.
func TestOneKeyARunFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	keys := make([]*Key, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			k, err := Load(t.Context(), dir)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = k
		})
	}
	all.Wait()
	for _, k := range keys {
		if k == nil || k.ID() != keys[0].ID() {
			t.Fatal("different keys in one run folder")
		}
	}
	fi, err := os.Stat(filepath.Join(dir, SecretFile))
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != SecretBytes {
		t.Errorf("secret: %v, %v", fi, err)
	}
	other, err := Load(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if other.ID() == keys[0].ID() {
		t.Error("two run folders have one key")
	}
}

// Who died while he made the secret is followed by one who makes it whole.
func TestSecretOfADeadMakerIsMadeWhole(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, SecretFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(t.Context(), dir)
	if err != nil || a.ID() != b.ID() {
		t.Errorf("loaded again: %v", err)
	}
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), file); err == nil {
		t.Error("a key below a file")
	}
}

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/layout"
)

// TestALostFormatIsMadeAgain: whoever opens the store names the remedy, which
// finds the version by what is stored, changes nothing else, and is of no use
// where nothing was lost.
func TestALostFormatIsMadeAgain(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"zeros":   func(path string) error { return os.WriteFile(path, make([]byte, 40), 0o600) },
	} {
		for kind, keys := range map[string]*keyring.Ring{"plain": nil, "encrypted": keyring.FromKeys(testKey(1))} {
			t.Run(name+" "+kind, func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "root")
				s := openWith(t, root, keys)
				sn := mustPublish(t, s, "first", image(1, 30))
				want, err := os.ReadFile(s.Path("format"))
				if err := errors.Join(err, lose(s.Path("format"))); err != nil {
					t.Fatal(err)
				}
				for _, create := range []bool{false, true} {
					_, err := Open(t.Context(), root, Options{Create: create, Keys: keys})
					if !errors.Is(err, failure.Damaged) || failure.HintOf(err) == "" {
						t.Fatalf("open, create %v: %v", create, err)
					}
				}
				for _, dryRun := range []bool{true, false, false} {
					made, err := layout.Remake(t.Context(), root, dryRun)
					_, lost := Open(t.Context(), root, Options{Keys: keys})
					if err != nil || dryRun && len(made) == 0 || dryRun != (lost != nil) {
						t.Fatalf("dry run %v: %v, %v; opens with %v", dryRun, made, err, lost)
					}
				}
				if got, err := os.ReadFile(s.Path("format")); err != nil || string(got) != string(want) {
					t.Errorf("format is %q, was %q (%v)", got, want, err)
				}
				reads(t, openWith(t, root, keys), sn.ID, image(1, 30))
			})
		}
	}
}

// TestNobodysFolderGetsAFormat.
func TestNobodysFolderGetsAFormat(t *testing.T) {
	for name, fill := range map[string]func(dir string) error{
		"empty":               func(string) error { return nil },
		"an OCI layout":       func(dir string) error { return os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700) },
		"of another version":  func(dir string) error { return alienStore(t, dir, `{"format":"cocoon-store","version":9}`) },
		"of another program":  func(dir string) error { return alienStore(t, dir, `{"format":"x"}`) },
		"with unknown format": func(dir string) error { return alienStore(t, dir, "x") },
	} {
		dir := filepath.Join(t.TempDir(), "root")
		if err := errors.Join(os.Mkdir(dir, 0o700), fill(dir)); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(filepath.Join(dir, "format"))
		if made, err := layout.Remake(t.Context(), dir, false); err != nil || len(made) > 0 {
			t.Errorf("%s: %v, %v", name, made, err)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "format")); string(after) != string(before) {
			t.Errorf("%s: format is %q, was %q", name, after, before)
		}
	}
}

func alienStore(t *testing.T, dir, format string) error {
	t.Helper()
	if _, err := Open(t.Context(), dir, Options{Create: true}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "format"), []byte(format), 0o600)
}

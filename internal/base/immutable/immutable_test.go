package immutable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestAnImmutableFileStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := Set(path, true); errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("the attribute cannot be set here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer Set(path, false)
	if is, err := Is(path); !is || err != nil {
		t.Errorf("after Set: %v, %v", is, err)
	}
	for name, do := range map[string]func() error{
		"write":  func() error { return os.WriteFile(path, []byte("y"), 0o600) },
		"remove": func() error { return os.Remove(path) },
		"rename": func() error { return os.Rename(path, path+".moved") },
		"link":   func() error { return os.Link(path, path+".link") },
		"chmod":  func() error { return os.Chmod(path, 0o600) },
	} {
		if err := do(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(Set(path, true), Set(path, false), Set(path, false), os.Remove(path)); err != nil {
		t.Error(err)
	}
}

func TestWhereThereIsNoAttribute(t *testing.T) {
	if err := Set("/proc/version", true); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("proc: %v", err)
	}
	if _, err := Is("/proc/version"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("proc: %v", err)
	}
	if err := Set(filepath.Join(t.TempDir(), "nothing"), true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

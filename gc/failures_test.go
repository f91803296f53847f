package gc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// immutable makes a file that not even root may rename, until the test ends.
func immutable(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const immutableFlag = 0x10 // FS_IMMUTABLE_FL
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutableFlag); err != nil {
		t.Skipf("the file system of %s cannot make a file immutable: %v", path, err)
	}
	t.Cleanup(func() {
		for _, at := range everyPlace(t, path) {
			if f, err := os.Open(at); err == nil {
				_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
				f.Close()
			}
		}
	})
}

// everyPlace finds a file again that may have been moved with its folder.
func everyPlace(t *testing.T, path string) (all []string) {
	root := filepath.Dir(filepath.Dir(path))
	_ = filepath.WalkDir(root, func(at string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(at) == filepath.Base(path) {
			all = append(all, at)
		}
		return nil
	})
	return all
}

// TestWhatCannotBeRemovedKeepsNothingElse: it is named, the rest goes, and the
// next run tries again.
func TestWhatCannotBeRemovedKeepsNothingElse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	all := litter(t, s, 40)
	stuck := all[17]
	immutable(t, s.BlobPath(stuck))
	for _, going := range []int{39, 0} {
		rep, err := run(t.Context(), s, Options{})
		if !errors.Is(err, unix.EPERM) || failure.Code(err) != 1 {
			t.Fatalf("gc: %v", err)
		}
		if rep == nil || len(rep.Removed) != going || len(rep.Failed) != 1 || rep.Failed[0].ID != "sha256:"+stuck.Encoded() {
			t.Fatalf("report %+v, want %d removed and one that stays", rep, going)
		}
	}
	for _, d := range all {
		if exists(s.BlobPath(d)) != (d == stuck) {
			t.Errorf("blob %s is there: %v", d, d != stuck)
		}
	}
}

// TestTrashThatCannotBeEmptiedKeepsNoneElse.
func TestTrashThatCannotBeEmptiedKeepsNoneElse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	for _, name := range []string{"a", "b", "c"} {
		if err := errors.Join(os.Mkdir(s.Path("trash", name), 0o700), os.WriteFile(s.Path("trash", name, "x-"+name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	immutable(t, s.Path("trash", "b", "x-b"))
	rep, err := run(t.Context(), s, Options{})
	if !errors.Is(err, unix.EPERM) || rep == nil || len(rep.Removed) != 2 || len(rep.Failed) != 1 || rep.Failed[0].ID != "b" {
		t.Fatalf("report %+v, error %v", rep, err)
	}
	if left, _ := os.ReadDir(s.Path("trash")); len(left) != 1 {
		t.Errorf("trash holds %v", left)
	}
}

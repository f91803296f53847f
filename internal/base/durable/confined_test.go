package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// hostileFolder has a good file, and every kind of thing that is none; outside
// lies a file that must never be read.
func hostileFolder(t *testing.T) *os.Root {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "folder")
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600),
		os.WriteFile(at("good"), []byte("good"), 0o600), os.Mkdir(at("sub"), 0o700), unix.Mkfifo(at("fifo"), 0o600),
		os.Symlink("good", at("link")), os.Symlink("../secret", at("out")), os.Symlink(filepath.Join(top, "secret"), at("abs")),
		os.Symlink("..", at("up")),
	)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestOnlyRegularFilesOfTheFolderAreOpened(t *testing.T) {
	root := hostileFolder(t)
	f, err := OpenRegular(root, "good")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := OpenRegular(root, "missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for _, name := range []string{"sub", "fifo", "link", "out", "abs", "up", "..", ".", "", "/", "../secret"} {
		if f, err := OpenRegular(root, name); !errors.Is(err, failure.Damaged) {
			t.Errorf("%q: %v, %v, want damage", name, f, err)
		}
	}
	for _, name := range []string{"up/secret", "sub/../../secret"} {
		if f, err := OpenRegular(root, name); err == nil {
			t.Errorf("%q opens %s", name, f.Name())
		}
	}
	if b, err := (Document{Limit: 4}).ReadIn(root, "good"); err != nil || string(b) != "good" {
		t.Errorf("good: %q, %v", b, err)
	}
	if _, err := (Document{Limit: 3}).ReadIn(root, "good"); !errors.Is(err, failure.Damaged) {
		t.Errorf("a file over the limit: %v", err)
	}
}

// TestAFileThatBecomesALinkMeanwhile is never followed out of the folder.
func TestAFileThatBecomesALinkMeanwhile(t *testing.T) {
	root := hostileFolder(t)
	dir := root.Name()
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			next := filepath.Join(dir, "next")
			err := os.Link(filepath.Join(dir, "good"), next)
			if i%2 == 1 {
				err = os.Symlink("../secret", next)
			}
			if err = errors.Join(err, os.Rename(next, filepath.Join(dir, "moving"))); err != nil && !errors.Is(err, os.ErrExist) {
				<-stop
				done <- err
				return
			}
			os.Remove(next) // a rename to the same inode does nothing
		}
	}()
	opened := 0
	for range 20_000 {
		f, err := OpenRegular(root, "moving")
		if err != nil {
			continue
		}
		opened++
		if b, err := io.ReadAll(f); err != nil || string(b) != "good" {
			t.Errorf("read %q, %v", b, err)
		}
		f.Close()
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if opened == 0 {
		t.Error("it was never a file")
	}
}

package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// OpenRegular opens a regular file in an untrusted folder, which may change
// meanwhile. The file lies in the folder, is not a link, and opening it does not
// block. Anything else is failure.Damaged; a missing file keeps os.ErrNotExist.
func OpenRegular(folder *os.Root, name string) (*os.File, error) {
	if !filepath.IsLocal(name) {
		return nil, notRegular(folder, name)
	}
	seen, err := folder.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !seen.Mode().IsRegular() {
		return nil, notRegular(folder, name)
	}
	f, err := folder.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	got, err := f.Stat()
	if err == nil && !os.SameFile(seen, got) {
		err = notRegular(folder, name) // exchanged for a link meanwhile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func notRegular(folder *os.Root, name string) error {
	return failure.New(failure.Damaged, "%s in %s is not a regular file", name, folder.Name())
}

// writeFileIn: see Document.WriteIn.
func writeFileIn(folder *os.Root, name string, data []byte, perm os.FileMode) error {
	f, err := newTemporaryIn(folder, name)
	if err != nil {
		return fmt.Errorf("write %s in %s: %w", name, folder.Name(), err)
	}
	defer f.Close() // its lock is needed until it has its name
	temporary := filepath.Base(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(perm), f.Sync())
	}
	if err == nil {
		if err = replaceable(folder.Lstat(name)); err == nil {
			err = folder.Rename(temporary, name)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s in %s: %w", name, folder.Name(), err), IgnoreMissing(folder.Remove(temporary)))
	}
	return syncRoot(folder)
}

func syncRoot(folder *os.Root) error {
	dir, err := folder.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	// Some file systems cannot fsync a folder and say EINVAL: nothing to wait for.
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

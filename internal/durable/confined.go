package durable

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// OpenRegular opens a regular file of a folder that anybody may have made, and
// may still be changing: what it opens lies in the folder, is no link and does
// not block. Anything else is failure.Damaged; a missing file keeps
// os.ErrNotExist.
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

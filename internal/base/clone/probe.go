package clone

import (
	"os"

	"golang.org/x/sys/unix"
)

// CanReflink finds out by trying whether files below dir can share blocks.
// Nothing is left in dir; any failure means no.
func CanReflink(dir string) bool { return CanReflinkBetween(dir, dir) }

// CanReflinkBetween does the same for a copy in dstDir of a file in srcDir. Two
// mounts of one file system may answer no where one mount answers yes.
func CanReflinkBetween(dstDir, srcDir string) bool {
	src, err := nameless(srcDir)
	if err != nil {
		return false
	}
	defer src.Close()
	dst, err := nameless(dstDir)
	if err != nil {
		return false
	}
	defer dst.Close()
	// Some file systems clone an empty file although they cannot share blocks.
	if _, err := src.WriteAt(make([]byte, 64<<10), 0); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// nameless opens a file without a name, so that none is left even if the process
// dies.
func nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		return f, nil
	}
	if f, err = os.CreateTemp(dir, ".probe-"); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Package immutable sets the immutable attribute of files (chattr +i): nobody,
// not even root, can write, remove, rename or link such a file until the
// attribute is cleared. It can be read, mapped, cloned (FICLONE) and locked
// (flock) like any other. Not every file system supports it, and in a container
// the kernel may refuse it (CAP_LINUX_IMMUTABLE).
package immutable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flag is FS_IMMUTABLE_FL of linux/fs.h.
const flag = 0x10

// Is reports whether a file has the attribute. errors.ErrUnsupported if the file
// system has none.
func Is(path string) (bool, error) {
	f, err := open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	flags, err := get(f)
	return flags&flag != 0, err
}

// Set sets or clears the attribute; if it already is so, that is success.
// errors.ErrUnsupported if the file system has none or we lack permission.
func Set(path string, on bool) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := get(f)
	if err != nil || flags&flag != 0 == on {
		return err
	}
	return classed(path, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags^flag)))
}

func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func get(f *os.File) (uint32, error) {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	return flags, classed(f.Name(), err)
}

func classed(path string, err error) error {
	for _, unsupported := range []error{unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS, unix.EPERM} {
		if errors.Is(err, unsupported) {
			return &os.PathError{Op: "set immutable", Path: path, Err: errors.Join(errors.ErrUnsupported, err)}
		}
	}
	if err != nil {
		return &os.PathError{Op: "set immutable", Path: path, Err: err}
	}
	return nil
}

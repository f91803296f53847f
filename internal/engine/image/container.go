package image

import (
	"errors"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/diskformat"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// unwrapped refuses image formats that are not read here; it returns the format.
func unwrapped(f io.ReaderAt, size int64) (string, error) {
	is, err := diskformat.Of(f, size)
	if err != nil || is.Name == "" || is.Name == diskformat.Qcow2 {
		return is.Name, err
	}
	return "", failure.Hint(failure.New(failure.Incompatible, "a %s is not read: its bytes are not those of the disk", is.Name), "qemu-img convert -O raw FILE disk.raw")
}

// RequireRaw refuses a file that is meant as a raw disk but is none.
func (*Store) RequireRaw(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return failure.New(failure.NotFound, "no such file")
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return failure.Hint(failure.New(failure.Usage, "not a regular file, as a VM's disks must be"), "dd or qemu-img convert it into a file first")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	is, err := diskformat.Of(f, fi.Size())
	if err != nil {
		return err
	}
	switch c := is.Name; {
	case c == diskformat.Qcow2:
		return failure.Hint(failure.New(failure.Usage, "a qcow2 is no raw disk"), hint.ImportImage.Of(path)+" "+hint.Name.Of()+" NAME, then "+hint.Image.Of()+" NAME")
	case c != "":
		return failure.Hint(failure.New(failure.Usage, "a %s is no raw disk", c), "qemu-img convert -O raw "+path+" disk.raw")
	case fi.Size() == 0 || fi.Size()%512 != 0:
		return failure.New(failure.Usage, "%d bytes is no raw disk: a multiple of 512 is", fi.Size())
	}
	return nil
}

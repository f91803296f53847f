package chsnap

import (
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/diskformat"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// CheckRaw is failure.Incompatible for a disk file that the VMM would not open as
// raw.
func CheckRaw(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return RefuseFormat(f, fi.Size())
}

// RefuseFormat is CheckRaw for an open disk.
func RefuseFormat(disk io.ReaderAt, size int64) error {
	is, err := diskformat.Of(disk, size)
	if err != nil || is.VMM == "" {
		return err
	}
	return failure.Hint(failure.New(failure.Incompatible, "the ends of the disk look like a %s: the VMM takes the disk for one and refuses to open it as raw", is.VMM),
		"what a guest has written it can put into a partition or a file instead; an image becomes a raw disk by "+hint.ImportImage.Of("FILE"))
}

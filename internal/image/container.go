package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// containers are the formats that wrap a disk, by their magic bytes. Only qcow2
// is read here. A VMM takes a raw disk that begins like one of them for it, and
// refuses it, or shows the guest the wrapping.
var containers = []struct {
	at    int64
	magic string
	name  string
}{
	{0, "QFI\xfb", "qcow2"},
	{0, "vhdxfile", "VHDX"},
	{0, "conectix", "VHD"},
	{0, "KDMV", "VMDK"},
	{0, "# Disk DescriptorFile", "VMDK"},
	{0x40, "\x7f\x10\xda\xbe", "VDI"},
	{0, "QED\x00", "QED"},
}

// vhdFooter begins the last 512 bytes of a VHD; one of fixed size has no other
// magic bytes.
const vhdFooter = "conectix"

// container is the format that wraps a disk, "" for none.
func container(f io.ReaderAt, size int64) (string, error) {
	is := func(at int64, magic string) (bool, error) {
		b := make([]byte, len(magic))
		n, err := f.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("look for the format: %w", err)
		}
		return n == len(b) && bytes.Equal(b, []byte(magic)), nil
	}
	for _, c := range containers {
		if found, err := is(c.at, c.magic); found || err != nil {
			return c.name, err
		}
	}
	if size >= 512 {
		if found, err := is(size-512, vhdFooter); found || err != nil {
			return "VHD", err
		}
	}
	return "", nil
}

// requireKnown refuses a wrapping that is not read here.
func requireKnown(f io.ReaderAt, size int64) error {
	c, err := container(f, size)
	if err != nil || c == "" || c == "qcow2" {
		return err
	}
	return failure.Hint(failure.New(failure.Incompatible, "a %s is not read: its bytes are not those of the disk", c), "qemu-img convert -O raw FILE disk.raw")
}

// RequireRaw refuses a file that is to be a disk as it is, and is none.
func RequireRaw(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return failure.New(failure.NotFound, "no such file")
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return failure.Hint(failure.New(failure.Usage, "not a regular file: a VM's disks are files of its own"), "dd or qemu-img convert it into a file first")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := container(f, fi.Size())
	if err != nil {
		return err
	}
	switch {
	case c == "qcow2":
		return failure.Hint(failure.New(failure.Usage, "a qcow2 is no raw disk"), fmt.Sprintf("cocoon image import %s --name NAME, then --image NAME", path))
	case c != "":
		return failure.Hint(failure.New(failure.Usage, "a %s is no raw disk", c), "qemu-img convert -O raw "+path+" disk.raw")
	case fi.Size() == 0 || fi.Size()%512 != 0:
		return failure.New(failure.Usage, "%d bytes is no raw disk: a multiple of 512 is", fi.Size())
	}
	return nil
}

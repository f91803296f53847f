package chsnap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// LooksLike says as what the VMM would take a raw disk by what stands in it, ""
// for raw. The VMM looks also where it was told that the disk is raw, and then
// refuses to open it (v53: specified = raw, detected = qcow2): a guest that has
// written an image straight onto its disk can neither be restored nor booted.
func LooksLike(disk io.ReaderAt, size int64) (string, error) {
	head, tail := make([]byte, 512), make([]byte, 512)
	for _, part := range []struct {
		b  []byte
		at int64
	}{{head, 0}, {tail, size - 512}} {
		if part.at < 0 {
			continue
		}
		if _, err := disk.ReadAt(part.b, part.at); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return "qcow2", nil
	case fixedVHD(tail):
		return "fixed VHD", nil
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		return "VHDX", nil
	case bytes.HasPrefix(head, []byte("# Disk DescriptorFile")): // from v54 on
		return "VMDK descriptor", nil
	}
	return "", nil
}

// fixedVHD: the footer of a virtual hard disk of fixed size, version 1.0.
func fixedVHD(footer []byte) bool {
	be := binary.BigEndian
	return bytes.HasPrefix(footer, []byte("conectix")) && be.Uint32(footer[12:]) == 0x10000 &&
		be.Uint64(footer[16:]) == 1<<64-1 && be.Uint32(footer[60:]) == 2
}

// CheckRaw is failure.Incompatible for a disk's file that the VMM would not open
// as raw.
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

// RefuseFormat is CheckRaw of a disk that is open.
func RefuseFormat(disk io.ReaderAt, size int64) error {
	is, err := LooksLike(disk, size)
	if err != nil {
		return fmt.Errorf("look at the ends of a disk: %w", err)
	}
	if is == "" {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "what stands at the ends of the disk is that of a %s: the VMM takes the disk for one and refuses to open it as raw", is),
		"what a guest has written it can put into a partition or a file instead; an image becomes a raw disk by cocoon image import")
}

// Package diskformat recognises disk image formats by the two ends of a file.
//
// A file meant to be a raw disk may hold an image instead: qcow2, VMDK and
// similar. Two callers need to know. Image import must not mistake the wrapping
// for the disk. The code that drives the VMM must know what the VMM would take a
// raw disk for: the VMM checks even a disk that is declared raw, and then refuses
// to open it, so a guest that wrote an image straight onto its disk could be
// neither restored nor booted. The VMM knows fewer formats, and some of them more
// narrowly; both answers come from one table, so that a new format cannot be
// added for one caller alone.
package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Format wraps a disk. The zero value is none: the disk is raw.
type Format struct {
	Name string // "qcow2"
	// VMM is what the VMM would take such a raw disk for, "" if it takes it for
	// raw (v53; VMDK descriptors from v54 on).
	VMM string
}

// Qcow2 is the only format read here.
const Qcow2 = "qcow2"

// endBytes is how much of each end is examined.
const endBytes = 512

var heads = []struct {
	at    int
	magic string
	Format
}{
	{0, "QFI\xfb", Format{Qcow2, "qcow2"}},
	{0, "vhdxfile", Format{"VHDX", "VHDX"}},
	{0, "conectix", Format{"VHD", ""}},
	{0, "KDMV", Format{"VMDK", ""}},
	{0, "# Disk DescriptorFile", Format{"VMDK", "VMDK descriptor"}},
	{0x40, "\x7f\x10\xda\xbe", Format{"VDI", ""}},
	{0, "QED\x00", Format{"QED", ""}},
}

// Of recognises the format of a disk of size bytes.
func Of(disk io.ReaderAt, size int64) (Format, error) {
	head, err := read(disk, 0)
	if err != nil {
		return Format{}, err
	}
	var tail []byte
	if size >= endBytes {
		if tail, err = read(disk, size-endBytes); err != nil {
			return Format{}, err
		}
	}
	found := Format{}
	if bytes.HasPrefix(tail, []byte("conectix")) { // a VHD of fixed size begins as any disk
		found = Format{"VHD", ""}
		if fixedVHD(tail) {
			found.VMM = "fixed VHD"
		}
	}
	for _, h := range heads {
		if len(head) < h.at || !bytes.HasPrefix(head[h.at:], []byte(h.magic)) {
			continue
		}
		if h.VMM == "" { // the VMM looks at the other end as well
			h.VMM = found.VMM
		}
		return h.Format, nil
	}
	return found, nil
}

func read(disk io.ReaderAt, at int64) ([]byte, error) {
	b := make([]byte, endBytes)
	n, err := disk.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("look at the ends of a disk: %w", err)
	}
	return b[:n], nil
}

// fixedVHD: the footer of a virtual hard disk of fixed size, version 1.0.
func fixedVHD(footer []byte) bool {
	be := binary.BigEndian
	return len(footer) == endBytes && be.Uint32(footer[12:]) == 0x10000 && be.Uint64(footer[16:]) == 1<<64-1 && be.Uint32(footer[60:]) == 2
}

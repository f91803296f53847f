// Package diskformat tells what wraps a disk by what stands at its two ends.
//
// A file that is to be a disk may hold an image of one instead: qcow2, VMDK and
// their kin. Two rooms ask. The one that takes in images must not take the
// wrapping for the disk. The one that talks to the VMM must know as what that would
// take a raw disk: it looks even where it was told that the disk is raw, and then
// refuses to open it, so that a guest which has written an image straight onto its
// disk can neither be restored nor booted. The VMM knows fewer formats, and some of
// them more narrowly; both answers come from one table, so that neither room can
// learn of a format alone.
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
	// VMM is as what the VMM would take a raw disk that begins or ends so, "" where
	// it takes it for raw (v53; VMDK descriptors from v54 on).
	VMM string
}

// Qcow2 is the one that is read here.
const Qcow2 = "qcow2"

// endBytes is how much of either end is looked at.
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

// Of looks at a disk of size bytes.
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

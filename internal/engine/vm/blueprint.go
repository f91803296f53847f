package vm

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// Blueprint is the VM of a snapshot: what its three documents (spec, VM record,
// config.json) agree on. Only [Agree] makes one, and a VM is rebuilt from nothing
// else in a snapshot. No string in it can be more than one word of an argument,
// except the kernel's command line and the result of ExtraArgs.
type Blueprint struct {
	rec        Record
	interfaces []Interface
	unlike     string // why there is no machine for a cold boot
}

// Interface is one interface of a Blueprint: as it was attached, and what the
// guest remembers of it.
type Interface struct {
	ID string // the VMM's, e.g. _net0
	network.Attachment
	Remembered network.Guest
	SavedMTU   int // bytes, 0 if unknown
}

// Where names the network or TAP of the interface.
func (i Interface) Where() string {
	if i.Tap != "" {
		return "TAP " + i.Tap
	}
	return "network " + i.Attachment.Network
}

// Interfaces in order.
func (b *Blueprint) Interfaces() []Interface { return slices.Clone(b.interfaces) }

// Disks in order. File is the disk's name in the folder of a VM.
func (b *Blueprint) Disks() []Disk { return slices.Clone(b.rec.Disks) }

// BootFile is one of the blobs a VM boots from.
type BootFile struct {
	Role string // kernel, firmware, initramfs
	store.ImageRef
}

// BootFiles are the existing ones.
func (b *Blueprint) BootFiles() []BootFile { return bootFiles(&b.rec) }

func bootFiles(rec *Record) (out []BootFile) {
	for _, f := range []struct {
		role string
		ref  *store.ImageRef
	}{{"kernel", rec.Kernel}, {"firmware", rec.Firmware}, {"initramfs", rec.Initramfs}} {
		if f.ref != nil {
			out = append(out, BootFile{f.role, *f.ref})
		}
	}
	return out
}

// ExtraArgs are the VM's own arguments for the VMM, which may contain anything:
// accepting them from a snapshot needs the operator's consent.
func (b *Blueprint) ExtraArgs() []string { return slices.Clone(b.rec.ExtraArgs) }

// Judge checks whether the VM can be rebuilt from a configuration and a state, as
// [Record.Judge] does.
func (b *Blueprint) Judge(c *chsnap.Config, s *chsnap.State) error {
	rec := b.rec
	for _, n := range b.interfaces {
		rec.Networks = append(rec.Networks, Network{n.ID, n.Attachment})
	}
	return rec.Judge(c, s)
}

// Unlike says why a cold boot makes a different machine from the saved one: if it
// has something no VM can be rebuilt with, only what the record knows comes back.
// "" if it is the same.
func (b *Blueprint) Unlike() string { return b.unlike }

// Fill makes rec, which has an identity, the VM of the blueprint, so that stop
// and start are a cold boot of the saved machine. The caller chooses its
// interfaces.
func (b *Blueprint) Fill(rec *Record) {
	from := &b.rec
	rec.Labels, rec.CPUs, rec.MemoryBytes, rec.HotplugBytes = from.Labels, from.CPUs, from.MemoryBytes, from.HotplugBytes
	rec.Kernel, rec.Firmware, rec.Initramfs, rec.Cmdline = from.Kernel, from.Firmware, from.Initramfs, from.Cmdline
	rec.Disks, rec.ExtraArgs, rec.Machine = b.Disks(), b.ExtraArgs(), slices.Clone(from.Machine)
	rec.Image, rec.Images = from.Image, standsOn(from)
}

// standsOn are the blobs that a record needs, each once.
func standsOn(rec *Record) []digest.Digest {
	out := []digest.Digest{}
	for _, f := range bootFiles(rec) {
		out = append(out, f.Digest)
	}
	for _, d := range rec.Disks {
		if d.Image != "" {
			out = append(out, d.Image)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// diskFile names a disk in the folder of its VM, never by a name from a snapshot.
func diskFile(index int) string { return fmt.Sprintf("disk-%d.raw", index) }

// DiskFileOf names a disk that comes from another VM, which has this id, so that both
// can lie in one folder.
func DiskFileOf(index int, id string) string { return fmt.Sprintf("disk-%d.%s.raw", index, id[:8]) }

// madeDisk are the names given to disks here. Other files beside them, such as a
// copy, belong to the operator.
var madeDisk = regexp.MustCompile(`^disk-[0-9]+(\.[0-9a-f]{8})?\.raw$`)

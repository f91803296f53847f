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

// Blueprint is the VM that a snapshot makes: what its three documents (spec, VM
// record, config.json) say alike. [Agree] alone makes one, and a VM is rebuilt of
// nothing else that a snapshot says. No string in it can be more than one word of
// an argument, except the kernel's command line and what ExtraArgs gives.
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
	SavedMTU   int // bytes, 0 when nobody said
}

// Where names what the interface was on.
func (i Interface) Where() string {
	if i.Tap != "" {
		return "TAP " + i.Tap
	}
	return "network " + i.Attachment.Network
}

// Interfaces in order.
func (b *Blueprint) Interfaces() []Interface { return slices.Clone(b.interfaces) }

// Disks in order. File is the name that the disk has in the folder of a VM.
func (b *Blueprint) Disks() []Disk { return slices.Clone(b.rec.Disks) }

// BootFile is one of the blobs that a VM boots from.
type BootFile struct {
	Role string // kernel, firmware, initramfs
	store.ImageRef
}

// BootFiles are those that there are.
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

// ExtraArgs are the VM's own arguments for the VMM, which may say anything: whoever
// takes in a snapshot asks the operator.
func (b *Blueprint) ExtraArgs() []string { return slices.Clone(b.rec.ExtraArgs) }

// Judge tells whether the VM can be rebuilt of a configuration and a state, as
// [Record.Judge] does.
func (b *Blueprint) Judge(c *chsnap.Config, s *chsnap.State) error {
	rec := b.rec
	for _, n := range b.interfaces {
		rec.Networks = append(rec.Networks, Network{n.ID, n.Attachment})
	}
	return rec.Judge(c, s)
}

// Unlike says why a cold boot makes another machine than the one that was saved: it
// has what no VM can be rebuilt with, and only what the record knows comes back. ""
// where it is the same.
func (b *Blueprint) Unlike() string { return b.unlike }

// Fill makes rec, which has an identity, the VM of the blueprint, so that stop and
// start are a cold boot of the machine that was saved. Its interfaces are the
// caller's to choose.
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

// diskFile names a disk in the folder of its VM: never as a snapshot would.
func diskFile(index int) string { return fmt.Sprintf("disk-%d.raw", index) }

// DiskFileOf names a disk that comes from another VM, which has this id, so that both
// can lie in one folder.
func DiskFileOf(index int, id string) string { return fmt.Sprintf("disk-%d.%s.raw", index, id[:8]) }

// madeDisk are the names that disks are given here. Other files beside them, such as
// a copy, are the operator's.
var madeDisk = regexp.MustCompile(`^disk-[0-9]+(\.[0-9a-f]{8})?\.raw$`)

package vm

import (
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Documents are a snapshot's descriptions of its VM. Config and State are nil if
// it is encrypted and the key is missing: then the restore checks them. State
// alone is nil for a VM that is about to be saved.
type Documents struct {
	Spec   *store.Spec
	Config *chsnap.Config
	State  *chsnap.State
	// Own marks a snapshot captured by this store. Only then may the VMM have
	// another number of processors or size of RAM than the record, since the
	// operator may have changed them by its API.
	Own bool
}

const (
	maxWord        = 64
	maxCPUs        = 1024
	maxMemoryBytes = 1 << 46
	maxDiskBytes   = 1 << 50
	maxDisks       = 256
	maxQueuePairs  = 256
	maxMTU         = 1 << 16
	maxAddresses   = 64
)

// Agree makes the blueprint of an untrusted snapshot. failure.Damaged if its
// documents disagree, or contain what this program does not write.
func Agree(d Documents) (*Blueprint, error) {
	said := &Record{}
	if len(d.Spec.Record) > sleep.RecordLimit {
		return nil, failure.New(failure.Damaged, "VM record of %d bytes", len(d.Spec.Record))
	}
	if err := json.Unmarshal(d.Spec.Record, said); err != nil {
		return nil, failure.New(failure.Damaged, "VM record: %w", err)
	}
	a := agreement{Documents: d, said: said}
	for _, step := range []func() error{a.size, a.bootFiles, a.disks, a.images, a.networks} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b := &a.out
	b.rec.Labels, b.rec.Cmdline, b.rec.ExtraArgs = document.FreeLabels(said.Labels), said.Cmdline, said.ExtraArgs
	if err := checkCommandLine(said.Cmdline); err != nil && !d.Own {
		return nil, err
	}
	if said.Image != "" && !spelling.Name(said.Image, 2*maxWord) {
		return nil, disagree("it was made from an image of the name %.80q", said.Image)
	}
	b.rec.Image = said.Image
	a.machine()
	return b, nil
}

// machine is what a cold boot boots. If it cannot be rebuilt whole, that is no
// reason to refuse: its disks can still be booted.
func (a *agreement) machine() {
	if a.Config == nil {
		return
	}
	m, err := a.Config.Machine()
	if err != nil {
		a.out.unlike = err.Error()
		return
	}
	a.out.rec.Machine = m.Bytes()
}

// checkCommandLine refuses a kernel command line that no VMM could be given.
func checkCommandLine(text string) error {
	var a chsnap.Args
	a.Text("--cmdline", text)
	if _, err := a.List(); text != "" && err != nil {
		return disagree("%v", err)
	}
	return nil
}

// agreement is a blueprint in the making.
type agreement struct {
	Documents
	said *Record
	out  Blueprint
}

func disagree(format string, args ...any) error {
	return failure.Hint(failure.New(failure.Damaged, "the snapshot's documents do not describe one VM: "+format, args...),
		"nothing of it is used; cocoon writes no such snapshot, ask whoever made it")
}

// size of the VM: processors and RAM.
func (a *agreement) size() error {
	sp, rec := a.Spec, a.said
	var ram uint64
	for _, m := range sp.Memory {
		if ram += m.Bytes; m.Bytes > maxMemoryBytes || ram > maxMemoryBytes {
			return disagree("RAM of %d bytes at %#x", m.Bytes, m.GPA)
		}
	}
	if rec.CPUs < 0 || rec.CPUs > maxCPUs || rec.MemoryBytes < 0 || rec.MemoryBytes > maxMemoryBytes {
		return disagree("%d processors, %d bytes of RAM", rec.CPUs, rec.MemoryBytes)
	}
	if sp.CPUs != rec.CPUs {
		return disagree("%d processors in the spec, %d in the record", sp.CPUs, rec.CPUs)
	}
	a.out.rec.CPUs, a.out.rec.MemoryBytes = rec.CPUs, rec.MemoryBytes
	if a.Config == nil {
		return nil
	}
	plug := a.Config.HotplugBytes()
	if plug > maxMemoryBytes {
		return disagree("%d bytes of RAM to plug in", plug)
	}
	if a.Own { // for others it is no reason to give a VMM more of this host
		a.out.rec.HotplugBytes = int64(plug)
	}
	if ranges := a.ranges(); !slices.EqualFunc(ranges, sp.Memory, func(r chsnap.Range, m store.MemoryRange) bool {
		return r.GPA == m.GPA && r.Length == m.Bytes
	}) {
		return disagree("the ranges of RAM of the spec are not those of state.json")
	}
	if a.Own { // it boots as it is, not as it was made
		a.out.rec.CPUs, a.out.rec.MemoryBytes = a.Config.CPUs(), int64(min(a.Config.MemoryBytes(), maxMemoryBytes))
		return nil
	}
	if c := a.Config; c.CPUs() != rec.CPUs || c.MemoryBytes() != uint64(rec.MemoryBytes) {
		return disagree("%d processors and %d bytes of RAM in config.json, %d and %d in the record", c.CPUs(), c.MemoryBytes(), rec.CPUs, rec.MemoryBytes)
	}
	return nil
}

// ranges of RAM as in state.json. Before a capture there are none yet.
func (a *agreement) ranges() []chsnap.Range {
	if a.State != nil {
		return a.State.MemoryRanges()
	}
	var out []chsnap.Range
	for _, m := range a.Spec.Memory {
		out = append(out, chsnap.Range{GPA: m.GPA, Length: m.Bytes})
	}
	return out
}

// bootFiles of the record exist exactly if config.json has some.
func (a *agreement) bootFiles() error {
	a.out.rec.Kernel, a.out.rec.Firmware, a.out.rec.Initramfs = a.said.Kernel, a.said.Firmware, a.said.Initramfs
	for _, f := range bootFiles(&a.out.rec) {
		if f.ImageRef.Role != f.Role {
			return disagree("its %s is a %.40q", f.Role, f.ImageRef.Role)
		}
	}
	if a.Config == nil {
		return nil
	}
	p := a.Config.Payload()
	for role, both := range map[string][2]bool{
		"kernel": {a.said.Kernel != nil, p.Kernel != ""}, "firmware": {a.said.Firmware != nil, p.Firmware != ""},
		"initramfs": {a.said.Initramfs != nil, p.Initramfs != ""},
	} {
		if both[0] != both[1] {
			return disagree("only one of record and config.json has a %s", role)
		}
	}
	return nil
}

// images of the spec are those of boot files and disks, no fewer and no more:
// they are what is kept for the VM, transferred, and opened.
func (a *agreement) images() error {
	want := map[store.ImageRef]bool{}
	for _, f := range bootFiles(&a.out.rec) {
		want[f.ImageRef] = true
	}
	for _, d := range a.out.rec.Disks {
		if d.Image != "" {
			want[store.ImageRef{Digest: d.Image, Role: "disk", Bytes: d.Bytes}] = true
		}
	}
	bytes := map[digest.Digest]int64{}
	for ref := range want {
		if n, twice := bytes[ref.Digest]; twice && n != ref.Bytes || ref.Bytes < 0 {
			return disagree("image %s has %d bytes", ref.Digest, ref.Bytes)
		}
		bytes[ref.Digest] = ref.Bytes
	}
	for _, ref := range a.Spec.Images {
		if !want[ref] {
			return disagree("it does not use image %s (%.40q) of %d bytes", ref.Digest, ref.Role, ref.Bytes)
		}
	}
	for ref := range want {
		if !slices.Contains(a.Spec.Images, ref) {
			return disagree("it uses image %s (%s) of %d bytes, which the spec does not name", ref.Digest, ref.Role, ref.Bytes)
		}
	}
	return nil
}

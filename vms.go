package cocoon

import (
	"context"
	"net/netip"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
)

// VM is a virtual machine: the input of Create, and the result of every call.
type VM struct {
	Name        string
	Labels      map[string]string
	CPUs        int   // 0 is one
	MemoryBytes int64 // 0 is 512 MiB
	// Kernel, Firmware and Initramfs are files, Image is the ref of an imported
	// one (cocoon image import). They are copied: the VM does not need the
	// originals.
	Kernel, Firmware, Initramfs, Image string
	Cmdline                            string // of the kernel; docs/cli.md says what is filled in
	// Disks are PATH[,readonly][,size=S], as on the command line. A writable one
	// is copied. In results they are the paths of the VM's own disks.
	Disks []string
	// Networks are none, tap=NAME or CNI-NAME[,ip=A][,mac=M][,queues=N]. In
	// results they are the names alone.
	Networks []string

	// The fields below are only set in results.

	ID        string
	State     string // created, running, paused, suspended, stopped or error
	Created   time.Time
	Snapshot  string       // id of the snapshot it was rebuilt from
	IPs       []netip.Addr // as the network sees it
	PID       int          // of the VMM, 0 if there is none
	APISocket string
	SerialLog string // file
}

// RestoreOptions configure how a VM is rebuilt from a snapshot.
type RestoreOptions struct {
	// Mode is how RAM gets into the VMM: map, stream or copy; "" is auto, the
	// fastest that works for the guest (docs/restore.md).
	Mode string
	// Networks say, once for all interfaces or once for each, keep, fresh,
	// keep=CNI-NAME, fresh=CNI-NAME, none or tap=NAME. Empty: keep if the address
	// is free, else fresh.
	Networks []string
	// StandStill keeps the guest's clock from jumping over the time that passed.
	StandStill bool
	// AllowIncompatible tries another version of the VMM or processor anyway.
	AllowIncompatible bool

	Cold      bool // for Clone and Wake: boot from the disks and discard the RAM
	Paused    bool // for Clone: load the RAM but do not run
	Backup    bool // for RestoreInPlace: keep the VM's former state as a snapshot
	FromOther bool // for RestoreInPlace: also accept a snapshot of another VM, or from elsewhere
}

// Create makes a VM from files or an image and boots it.
func (h *Host) Create(ctx context.Context, v VM) (made *VM, err error) {
	defer classed(&err)
	s := vm.CreateSpec{
		Name: v.Name, Labels: v.Labels, CPUs: v.CPUs, MemoryBytes: v.MemoryBytes,
		Kernel: v.Kernel, Firmware: v.Firmware, Initramfs: v.Initramfs, Image: v.Image, Cmdline: v.Cmdline, Start: true,
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.MemoryBytes == 0 {
		s.MemoryBytes = 512 << 20
	}
	if err := document.CheckLabels(v.Labels); err != nil {
		return nil, err
	}
	if s.Disks, err = house.ParseDisks(v.Disks); err != nil {
		return nil, err
	}
	if s.Networks, err = house.ParseNetworks(v.Networks); err != nil {
		return nil, err
	}
	rec, err := h.house.Create(h.patient(ctx), s)
	if err != nil {
		return nil, err
	}
	return h.vm(rec), nil
}

// Restore makes a running VM called name from the snapshot named by ref.
func (h *Host) Restore(ctx context.Context, ref, name string) (*VM, error) {
	vms, err := h.Clone(ctx, ref, []string{name}, RestoreOptions{})
	if err != nil {
		return nil, err
	}
	return &vms[0], nil
}

// Clone makes one VM for each name, all from one snapshot: all or none. They
// share its RAM as far as possible, and none runs before all of them can. The
// snapshot may be removed while they run.
func (h *Host) Clone(ctx context.Context, snapshot string, names []string, o RestoreOptions) (made []VM, err error) {
	defer classed(&err)
	ctx = h.patient(ctx)
	r := restore.Request{
		Snapshot: snapshot, Mode: o.mode(), Cold: o.Cold, Paused: o.Paused,
		AllowIncompatible: o.AllowIncompatible, Clock: o.clock(), Clones: len(names), OnBytes: h.telling("restoring", snapshot),
	}
	if r.Networks, err = house.ParseWishes(o.Networks); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, nil
	}
	plans, err := h.house.Restorer.NewPlans(ctx, r, names)
	if err != nil {
		return nil, err
	}
	for _, w := range plans[0].Warnings {
		h.log.Warn(w, "snapshot", snapshot)
	}
	recs, err := h.house.Rebuild(ctx, plans)
	if err != nil {
		return nil, err
	}
	return h.vms(recs), nil
}

func (o RestoreOptions) mode() restore.Mode {
	if o.Mode == "" {
		return restore.Auto
	}
	return restore.Mode(o.Mode)
}

func (o RestoreOptions) clock() restore.GuestClock {
	if o.StandStill {
		return restore.StandStill
	}
	return restore.CatchUp
}

// Check reports whether this host can rebuild a VM from a snapshot, and if not,
// why. Nothing changes.
func (h *Host) Check(ctx context.Context, snapshot string) (err error) {
	defer classed(&err)
	_, err = h.house.Restorer.NewPlan(h.patient(ctx), restore.Request{Snapshot: snapshot})
	return err
}

// RestoreInPlace returns a VM to one of its snapshots: RAM, devices and disks
// change, its id, name and network stay. The running VM is affected last; if the
// restore fails it continues as it was. It returns the id of the snapshot of the
// former state, "" unless o.Backup asks for one.
func (h *Host) RestoreInPlace(ctx context.Context, vm, snapshot string, o RestoreOptions) (backup string, err error) {
	defer classed(&err)
	ctx = h.patient(ctx)
	if !o.FromOther {
		if err := h.house.OfItsOwn(ctx, vm, snapshot); err != nil {
			return "", err
		}
	}
	id, err := h.house.Exchange(ctx, vm, snapshot, house.ExchangeOptions{
		Backup: o.Backup, Mode: o.mode(), AllowIncompatible: o.AllowIncompatible, Clock: o.clock(),
		OnSaved: h.telling("saving", vm), OnLoaded: h.telling("restoring", vm),
	})
	return string(id), err
}

// Suspend saves a VM's RAM and ends its VMM. The VM stays, and Wake resumes it.
func (h *Host) Suspend(ctx context.Context, vm string) (err error) {
	defer classed(&err)
	return h.house.Suspend(h.patient(ctx), vm, h.telling("suspending", vm))
}

// Wake resumes a suspended VM where it was, and boots any other stopped VM from
// its disks.
func (h *Host) Wake(ctx context.Context, vm string, o RestoreOptions) (err error) {
	defer classed(&err)
	wishes, err := house.ParseMoves(o.Networks)
	if err != nil {
		return err
	}
	return h.house.Start(h.patient(ctx), vm, house.StartOptions{
		Cold: o.Cold, Mode: o.mode(), AllowIncompatible: o.AllowIncompatible, Clock: o.clock(),
		Networks: wishes, OnBytes: h.telling("restoring", vm),
	})
}

// Stop ends a VM: its guest is asked to power off, then its VMM is ended. The
// contents of RAM are lost, its disks stay.
func (h *Host) Stop(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	_, err = h.house.VMs.Stop(h.patient(ctx), ref, vm.StopOptions{})
	return err
}

// RemoveVM removes a VM with its disks. A running one is Conflict: Stop it first.
// Its snapshots stay.
func (h *Host) RemoveVM(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	_, err = h.house.Remove(h.patient(ctx), ref, vm.RemoveOptions{})
	return err
}

// VMs lists all VMs.
func (h *Host) VMs(ctx context.Context) (vms []VM, err error) {
	defer classed(&err)
	ctx = h.patient(ctx)
	recs, err := h.house.VMs.List(ctx)
	if err != nil {
		return nil, err
	}
	h.house.VMs.Look(ctx, recs...)
	return h.vms(recs), nil
}

// InspectVM returns one VM.
func (h *Host) InspectVM(ctx context.Context, ref string) (found *VM, err error) {
	defer classed(&err)
	ctx = h.patient(ctx)
	rec, err := h.house.VMs.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	h.house.VMs.Look(ctx, rec)
	return h.vm(rec), nil
}

func (h *Host) vms(recs []*vm.Record) []VM {
	out := make([]VM, 0, len(recs))
	for _, rec := range recs {
		out = append(out, *h.vm(rec))
	}
	return out
}

func (h *Host) vm(rec *vm.Record) *VM {
	v := &VM{
		Name: rec.Name, Labels: rec.Labels, CPUs: rec.CPUs, MemoryBytes: rec.MemoryBytes, Image: rec.Image, Cmdline: rec.Cmdline,
		ID: rec.ID, State: string(rec.State), Created: rec.Created, Snapshot: rec.Snapshot, SerialLog: h.house.VMs.SerialPath(rec.ID),
	}
	for _, of := range []struct {
		ref  *store.ImageRef
		path *string
	}{{rec.Kernel, &v.Kernel}, {rec.Firmware, &v.Firmware}, {rec.Initramfs, &v.Initramfs}} {
		if of.ref != nil {
			*of.path = h.house.Images.Path(of.ref.Digest)
		}
	}
	for _, d := range rec.Disks {
		v.Disks = append(v.Disks, h.house.DiskPath(rec, d))
	}
	for _, n := range rec.Networks {
		v.Networks = append(v.Networks, n.Network)
		for _, ip := range n.IPs {
			v.IPs = append(v.IPs, ip.Addr())
		}
	}
	if p := rec.Process; p != nil {
		v.PID, v.APISocket = p.PID, p.APISocket
	}
	return v
}

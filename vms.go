package cocoon

import (
	"context"
	"net/netip"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
)

// VM is a virtual machine: what Create is told, and what every call answers.
type VM struct {
	Name        string
	Labels      map[string]string
	CPUs        int   // 0 is one
	MemoryBytes int64 // 0 is 512 MiB
	// Kernel, Firmware and Initramfs are files, Image is the ref of an imported one
	// (cocoon image import). They are copied: the VM does not need them any more.
	Kernel, Firmware, Initramfs, Image string
	Cmdline                            string // of the kernel; docs/cli.md says what is filled in
	// Disks are PATH[,readonly][,size=S], as on the command line. A writable one is
	// copied. In answers they are where the VM's own lie.
	Disks []string
	// Networks are none, tap=NAME or CNI-NAME[,ip=A][,mac=M][,queues=N]. In answers
	// they are the names alone.
	Networks []string

	// What follows is only answered.

	ID        string
	State     string // created, running, paused, suspended, stopped or error
	Created   time.Time
	Snapshot  string       // id of the one that it was rebuilt from
	IPs       []netip.Addr // as the network sees it
	PID       int          // of the VMM, 0 where there is none
	APISocket string
	SerialLog string // file
}

// RestoreOptions say how a VM comes from a snapshot.
type RestoreOptions struct {
	// Mode is how RAM gets into the VMM: map, stream or copy; "" is auto, the
	// fastest that is right for the guest (docs/restore.md).
	Mode string
	// Networks say for every interface, or for each one, keep, fresh,
	// keep=CNI-NAME, fresh=CNI-NAME, none or tap=NAME. None given: keep where nobody
	// has the address, else fresh.
	Networks []string
	// StandStill keeps the guest's clock from leaping over the time that passed.
	StandStill bool
	// AllowIncompatible tries another version of the VMM or processor all the same.
	AllowIncompatible bool

	Cold      bool // of Clone and Wake: boot from the disks and leave the RAM
	Paused    bool // of Clone: load the RAM and do not run
	Backup    bool // of RestoreInPlace: keep the state that the VM had as a snapshot
	FromOther bool // of RestoreInPlace: also from a snapshot of another VM, or from elsewhere
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
	if err := store.CheckLabels(v.Labels); err != nil {
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

// Restore makes a running VM called name of the snapshot that ref names.
func (h *Host) Restore(ctx context.Context, ref, name string) (*VM, error) {
	vms, err := h.Clone(ctx, ref, []string{name}, RestoreOptions{})
	if err != nil {
		return nil, err
	}
	return &vms[0], nil
}

// Clone makes one VM for each name, all of one snapshot: all or none. They share
// what they can of its RAM, and none runs before all of them can. The snapshot may
// be removed while they run.
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

// Check tells whether this host can rebuild a VM from a snapshot, and if not, why.
// Nothing changes.
func (h *Host) Check(ctx context.Context, snapshot string) (err error) {
	defer classed(&err)
	_, err = h.house.Restorer.NewPlan(h.patient(ctx), restore.Request{Snapshot: snapshot})
	return err
}

// RestoreInPlace lets a VM go on as one of its snapshots: RAM, devices and disks
// change, its id, name and network stay. The running VM is touched last; where that
// fails it goes on as it was. The answer is the id of the snapshot of its former
// state, "" unless o.Backup asks for one.
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

// Suspend saves a VM's RAM and ends its VMM. The VM stays, and Wake lets it go on.
func (h *Host) Suspend(ctx context.Context, vm string) (err error) {
	defer classed(&err)
	return h.house.Suspend(h.patient(ctx), vm, h.telling("suspending", vm))
}

// Wake lets a suspended VM go on where it was, and boots any other that does not
// run from its disks.
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

// Stop ends a VM: its guest is asked to power off, then its VMM is ended. What is in
// RAM is lost, its disks stay.
func (h *Host) Stop(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	_, err = h.house.VMs.Stop(h.patient(ctx), ref, vm.StopOptions{})
	return err
}

// RemoveVM removes a VM with its disks. One that runs is Conflict: Stop it first.
// Its snapshots stay.
func (h *Host) RemoveVM(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	_, err = h.house.Remove(h.patient(ctx), ref, vm.RemoveOptions{})
	return err
}

// VMs lists all of them.
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

// InspectVM answers one.
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

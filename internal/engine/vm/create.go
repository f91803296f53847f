package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
)

// CreateSpec describes a new VM.
type CreateSpec struct {
	Name                        string
	Labels                      map[string]string
	CPUs                        int
	MemoryBytes                 int64
	HotplugBytes                int64 // of RAM that may be plugged in beside
	Hardware                    Hardware
	Kernel, Firmware, Initramfs string // paths
	Image                       string // reference of an imported disk or kernel
	Cmdline                     string
	Disks                       []DiskSpec
	Networks                    []network.Request // VM and Index are filled in
	ExtraArgs                   []string
	Start                       bool // boot it too
}

// DiskSpec is a disk to be copied (writable) or imported as a blob (read-only).
type DiskSpec struct {
	Path     string
	Readonly bool
	Bytes    int64 // grow to; 0 keeps the size
}

// minMemory is the minimum for any guest, bytes.
const minMemory = 32 << 20

// Create makes a VM with its interfaces attached; on error nothing of it is left.
func (m *Manager) Create(ctx context.Context, spec CreateSpec) (*Record, error) {
	if err := spec.Hardware.check(spec.CPUs, spec.MemoryBytes, spec.HotplugBytes); err != nil {
		return nil, err
	}
	if err := spec.Hardware.checkArgs(spec.ExtraArgs); err != nil {
		return nil, err
	}
	if err := document.CheckLabels(spec.Labels); err != nil {
		return nil, err
	}
	if err := m.CheckName(ctx, spec.Name); err != nil {
		return nil, err
	}
	lease, err := m.st.Lease(ctx, "vm create "+spec.Name)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	rec, unlock, err := m.Reserve(ctx, lease, spec.Name, "vm create")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Networks, err = wanted(rec.ID, spec.Networks); err == nil {
		err = m.build(ctx, lease, rec, &spec)
	}
	if err == nil && spec.Start {
		if err = m.boot(ctx, rec); err == nil {
			err = m.Announce(rec)
		}
	}
	if err != nil {
		err = fmt.Errorf("create VM %s: %w", spec.Name, err)
		return nil, failure.Undone(err, m.Discard(context.WithoutCancel(ctx), rec.ID), "nothing is left of VM "+spec.Name)
	}
	return rec, nil
}

func (m *Manager) build(ctx context.Context, l *store.Lease, rec *Record, spec *CreateSpec) error {
	rec.Labels, rec.CPUs, rec.MemoryBytes = spec.Labels, spec.CPUs, spec.MemoryBytes
	rec.Cmdline, rec.ExtraArgs, rec.HotplugBytes = spec.Cmdline, spec.ExtraArgs, spec.HotplugBytes
	if spec.Hardware != (Hardware{}) {
		rec.Hardware = &spec.Hardware
	}
	if err := m.bootFiles(ctx, l, rec, spec); err != nil {
		return err
	}
	for _, d := range spec.Disks {
		if err := m.addDisk(ctx, l, rec, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	if _, err := m.ColdBootArgs(ctx, rec).List(); err != nil {
		return failure.Wrap(failure.Usage, err)
	}
	if err := durable.SyncDir(m.Dir(rec.ID)); err != nil {
		return err
	}
	durable.Step("vm.create.disks")
	if err := m.Attach(ctx, rec); err != nil {
		return err
	}
	durable.Step("vm.create.attached")
	if err := m.Publish(ctx, rec); err != nil {
		return err
	}
	durable.Step("vm.create.published")
	return nil
}

func (m *Manager) bootFiles(ctx context.Context, l *store.Lease, rec *Record, spec *CreateSpec) error {
	if spec.Image != "" {
		if err := m.fromImage(ctx, l, rec, spec); err != nil {
			return err
		}
	}
	if rec.Kernel != nil && spec.Firmware != "" {
		return failure.Hint(failure.New(failure.Usage, "a VM boots a kernel or firmware, not both"), "leave out "+hint.Firmware.Of()+", or the image that is a kernel")
	}
	if rec.Kernel != nil && spec.Kernel != "" {
		return failure.Hint(failure.New(failure.Usage, "image %s is a kernel, and another is named", spec.Image), "leave out "+hint.Kernel.Of()+" or "+hint.Image.Of())
	}
	if err := rec.BootWith(ctx, l, m.images, BootPaths{spec.Kernel, spec.Firmware, spec.Initramfs}); err != nil {
		return err
	}
	if rec.Kernel == nil && rec.Firmware == nil {
		return failure.New(failure.Usage, "a VM needs %s or %s (or an %s that is a kernel)", hint.Kernel, hint.Firmware, hint.Image)
	}
	return nil
}

// fromImage uses an imported kernel as the kernel, an imported disk as disk 0.
func (m *Manager) fromImage(ctx context.Context, l *store.Lease, rec *Record, spec *CreateSpec) error {
	name, im, err := m.images.Named(ctx, spec.Image)
	if err != nil {
		return err
	}
	if err := l.Hold(ctx, im.Digest); err != nil {
		return err
	}
	rec.Image = name
	rec.Images = append(rec.Images, im.Digest)
	switch im.Role {
	case "kernel":
		rec.Kernel = &im
	case "disk":
		spec.Disks = append([]DiskSpec{{Path: m.images.Path(im.Digest)}}, spec.Disks...)
	default:
		return failure.New(failure.Usage, "image %s is a %s", name, im.Role)
	}
	return nil
}

func (m *Manager) addDisk(ctx context.Context, l *store.Lease, rec *Record, spec DiskSpec) error {
	i := len(rec.Disks)
	d := Disk{Index: i, DeviceID: fmt.Sprintf("_disk%d", i), Serial: fmt.Sprintf("cow%d", i), Readonly: spec.Readonly}
	if err := m.images.RequireRaw(spec.Path); err != nil {
		return err
	}
	fi, err := os.Stat(spec.Path)
	if err != nil {
		return err
	}
	if spec.Readonly {
		ref, err := m.images.Blob(ctx, l, spec.Path, "disk")
		if err != nil {
			return err
		}
		d.Image, d.Bytes = ref.Digest, ref.Bytes
		rec.Images = append(rec.Images, ref.Digest)
		rec.Disks = append(rec.Disks, d)
		return nil
	}
	if err := filelock.Unused(spec.Path); err != nil {
		return err
	}
	if err := m.st.Space().Require(hostfacts.FileBytes(spec.Path)); err != nil {
		return err
	}
	d.File, d.Bytes = diskFile(i), fi.Size()
	path := filepath.Join(m.Dir(rec.ID), d.File)
	if _, err := clone.File(ctx, path, spec.Path, clone.Options{}); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if spec.Bytes > 0 && spec.Bytes < d.Bytes {
		return failure.New(failure.Usage, "size=%d is smaller than the file (%d)", spec.Bytes, d.Bytes)
	}
	if spec.Bytes > d.Bytes {
		d.Bytes = spec.Bytes
		if err := os.Truncate(path, d.Bytes); err != nil {
			return err
		}
	}
	rec.Disks = append(rec.Disks, d)
	return nil
}

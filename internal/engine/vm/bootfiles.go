package vm

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
)

// BootPaths are files for a VM to boot from; "" for those not given.
type BootPaths struct{ Kernel, Firmware, Initramfs string }

// Any reports whether one is given.
func (p BootPaths) Any() bool { return p != BootPaths{} }

// BootWith sets the files a VM boots from. A kernel replaces firmware, and
// firmware replaces a kernel with its initramfs; other files stay. The lease
// holds the blobs until rec is published.
func (r *Record) BootWith(ctx context.Context, l *store.Lease, images Blobs, p BootPaths) error {
	if p.Kernel != "" && p.Firmware != "" {
		return failure.Hint(failure.New(failure.Usage, "a VM boots a kernel or firmware, not both"), "leave out "+hint.Kernel.Of()+" or "+hint.Firmware.Of())
	}
	former := bootFiles(r)
	for _, f := range []struct{ path, role string }{{p.Firmware, "firmware"}, {p.Kernel, "kernel"}, {p.Initramfs, "initramfs"}} {
		if f.path == "" {
			continue
		}
		ref, err := images.Blob(ctx, l, f.path, f.role)
		if err != nil {
			return fmt.Errorf("%s: %w", f.role, err)
		}
		r.AddBootFile(ref)
	}
	r.Images = r.standsOnInstead(former)
	return nil
}

// AddBootFile sets a leased blob as the VM's boot file of its role.
func (r *Record) AddBootFile(ref store.ImageRef) {
	switch ref.Role {
	case "kernel":
		r.Kernel, r.Firmware = &ref, nil
	case "firmware":
		r.Firmware, r.Kernel, r.Initramfs = &ref, nil, nil
	case "initramfs":
		r.Initramfs = &ref
	}
	r.Images = append(r.Images, ref.Digest)
}

// bootWith sets the files a stopped VM boots from, and refuses one that has
// nothing to boot from. The caller saves rec before it calls release, which is
// never nil.
func (m *Manager) bootWith(ctx context.Context, rec *Record, p BootPaths) (release func(), err error) {
	if !p.Any() {
		return func() {}, rec.bootable()
	}
	lease, err := m.st.Lease(ctx, "vm start "+rec.Name)
	if err != nil {
		return func() {}, err
	}
	release = func() { lease.Release() }
	if err := rec.BootWith(ctx, lease, m.images, p); err != nil {
		return release, fmt.Errorf("start VM %s: %w", rec.Name, err)
	}
	return release, rec.bootable()
}

// Blobs imports files; implemented by image.Store.
type Blobs interface {
	Blob(ctx context.Context, l *store.Lease, path, role string) (store.ImageRef, error)
}

// Images are the read-only files of VMs; implemented by image.Store.
type Images interface {
	Blobs
	// Named returns an imported image by its name or digest.
	Named(ctx context.Context, ref string) (name string, im store.ImageRef, err error)
	// Path is the path of a blob.
	Path(d digest.Digest) string
	// RequireRaw refuses a file that is meant as a raw disk but is none.
	RequireRaw(path string) error
}

// standsOnInstead are the blobs of the record after its boot files changed from
// former.
func (r *Record) standsOnInstead(former []BootFile) []digest.Digest {
	kept := slices.DeleteFunc(slices.Clone(r.Images), func(d digest.Digest) bool {
		return slices.ContainsFunc(former, func(f BootFile) bool { return f.Digest == d })
	})
	all := append(kept, standsOn(r)...)
	slices.Sort(all)
	return slices.Compact(all)
}

// bootable refuses a VM without known boot files: its snapshot was imported
// without them.
func (r *Record) bootable() error {
	if r.Kernel != nil || r.Firmware != nil {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "VM %s cannot boot: its kernel or firmware was missing when its snapshot was imported", r.Name),
		hint.Wake.Of(r.Name)+" "+hint.Kernel.Of()+" PATH (or "+hint.Firmware.Of()+" PATH)")
}

// Bootable refuses the blueprint of a VM that can only continue from its RAM.
func (b *Blueprint) Bootable() error {
	if b.rec.Kernel != nil || b.rec.Firmware != nil {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "its VM cannot boot: the kernel or firmware was missing when it was imported"),
		"leave out "+hint.Cold.Of()+"; or take the folder in again with "+hint.Kernel.Of()+" PATH or "+hint.TrustPaths.Of())
}

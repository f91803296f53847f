package cocoon

import "context"

// ImportImage copies a disk (raw or qcow2), a kernel, firmware or an initramfs into
// the store, under a name that may be empty: then it is that of the file. The answer
// is its digest. An image is what the field Image of a VM names; it stays until
// RemoveImage, and longer where a VM, a snapshot or a pin needs it.
func (h *Host) ImportImage(ctx context.Context, file, name string) (digest string, err error) {
	defer classed(&err)
	d, err := h.house.ImportImage(h.patient(ctx), file, name)
	return string(d), err
}

// RemoveImage removes the name of an image; Collect frees it. One that a VM, a
// snapshot or a pin needs is Conflict.
func (h *Host) RemoveImage(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	return h.house.RemoveImage(h.patient(ctx), ref)
}

// PinImage keeps an image until UnpinImage, though no VM and no snapshot needs it.
// It may be one without a name, such as the kernel that a snapshot brought along: ref
// is the digest then. To pin again what is pinned is no error.
func (h *Host) PinImage(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	return h.house.PinImage(h.patient(ctx), ref)
}

// UnpinImage lets go of a pinned image; one that is not pinned is NotFound.
func (h *Host) UnpinImage(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	return h.house.UnpinImage(h.patient(ctx), ref)
}

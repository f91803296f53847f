package house

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/store"
)

// Image is one that VMs use, with the keys of `image list`.
type Image struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Kind         string    `json:"kind"`
	Format       string    `json:"format"`
	Bytes        int64     `json:"bytes"`
	VirtualBytes int64     `json:"virtualBytes"`
	Created      time.Time `json:"created"`
	Pinned       bool      `json:"pinned"`
	Holders      []string  `json:"holders,omitempty"`
}

func imported(r *image.Record) Image {
	return Image{ID: string(r.ID), Name: r.Name, Kind: r.Kind, Format: r.Format, Bytes: r.Bytes, VirtualBytes: r.VirtualBytes, Created: r.Created.UTC()}
}

// ImportImage copies a file into the store and returns its digest.
func (h *House) ImportImage(ctx context.Context, path, name string) (digest.Digest, error) {
	lease, err := h.Store.Lease(ctx, "image import")
	if err != nil {
		return "", err
	}
	defer lease.Release()
	rec, err := h.Images.Import(ctx, lease, path, name)
	if err != nil {
		return "", err
	}
	return rec.ID, nil
}

const digestWords = "a blob or an image goes by its digest, at least 3 of its digits, with or without sha256:; an image by its name too"

// Digest accepts a digest as any command prints it: whole or its first digits,
// with or without sha256:; and the name of an image.
func (h *House) Digest(ctx context.Context, ref string) (digest.Digest, error) {
	im, err := h.Images.Get(ctx, ref)
	if err == nil {
		return im.ID, nil
	}
	hex, ok := spelling.Digits(ref)
	switch {
	case !errors.Is(err, failure.NotFound) && !errors.Is(err, failure.Conflict):
		return "", err // of a name that is none
	case !ok && errors.Is(err, failure.NotFound):
		return "", failure.Hint(failure.New(failure.NotFound, "no blob and no image %q", ref), digestWords)
	case !ok:
		return "", err
	}
	if len(hex) == 64 {
		return digest.NewDigestFromEncoded(digest.SHA256, hex), nil
	}
	return h.blobOf(ref, hex)
}

// blobOf finds the one blob, of snapshots or of images, whose digest begins so.
func (h *House) blobOf(ref, hex string) (digest.Digest, error) {
	var found []string
	for _, folder := range []string{h.Store.Path("blobs", "sha256"), filepath.Dir(h.Images.Path(digest.FromString("")))} {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), hex) && spelling.Hex(e.Name(), 64) && !slices.Contains(found, e.Name()) {
				found = append(found, e.Name())
			}
		}
	}
	switch len(found) {
	case 0:
		return "", failure.Hint(failure.New(failure.NotFound, "no blob and no image %q", ref), digestWords)
	case 1:
		return digest.NewDigestFromEncoded(digest.SHA256, found[0]), nil
	}
	return "", failure.New(failure.Conflict, "%q is ambiguous: %s", ref, strings.Join(found[:min(len(found), 4)], ", "))
}

// Image returns an image by name or digest. One that a VM or a snapshot brought
// along, such as the kernel of a folder, has no name and no record.
func (h *House) Image(ctx context.Context, ref string) (Image, error) {
	rec, err := h.Images.Get(ctx, ref)
	if err == nil {
		return imported(rec), nil
	}
	if !errors.Is(err, failure.NotFound) {
		return Image{}, err
	}
	d, derr := h.Digest(ctx, ref)
	if derr != nil {
		return Image{}, err
	}
	fi, serr := os.Stat(h.Images.Path(d))
	if serr != nil {
		return Image{}, err
	}
	kind, err := h.roleOf(ctx, d)
	return Image{ID: d.String(), Kind: kind, Bytes: fi.Size(), VirtualBytes: fi.Size(), Created: fi.ModTime().UTC()}, err
}

// roleOf finds the role of a blob without a record, "" if it is unused.
func (h *House) roleOf(ctx context.Context, d digest.Digest) (string, error) {
	var refs []store.ImageRef
	for sn, err := range h.Store.List(ctx) {
		if err == nil {
			refs = append(refs, sn.Spec.Images...)
		}
	}
	vms, err := h.VMs.List(ctx)
	if err != nil {
		return "", err
	}
	for _, rec := range vms {
		for _, ref := range []*store.ImageRef{rec.Kernel, rec.Firmware, rec.Initramfs} {
			if ref != nil {
				refs = append(refs, *ref)
			}
		}
		for _, disk := range rec.Disks {
			refs = append(refs, store.ImageRef{Digest: disk.Image, Role: "disk"})
		}
	}
	at := slices.IndexFunc(refs, func(ref store.ImageRef) bool { return ref.Digest == d })
	if at < 0 {
		return "", nil
	}
	return refs[at].Role, nil
}

// orUnpin adds the remedy to the refusal of an image that a pin alone holds. Of
// several holders that is not enough. A pin of more than the image goes by its id.
func (h *House) orUnpin(ctx context.Context, d digest.Digest, ref string, refusal error) error {
	held, err := h.HeldBy(ctx, d)
	if err != nil || len(held) != 1 || held[0].Kind != "pin" {
		return refusal
	}
	pins, _ := h.Images.Pins(ctx)
	if at := slices.IndexFunc(pins, func(p *image.Pin) bool { return p.ID == held[0].ID && len(p.Pinned()) > 1 }); at >= 0 {
		ref = pins[at].ID
	}
	return failure.Hint(refusal, hint.UnpinImage.Of(ref))
}

// RemoveImage removes a record. A blob without one goes with its last holder.
func (h *House) RemoveImage(ctx context.Context, ref string) error {
	err := h.Images.Remove(ctx, ref, h.Holders)
	if errors.Is(err, failure.Conflict) {
		if d, derr := h.Digest(ctx, ref); derr == nil {
			return h.orUnpin(ctx, d, ref, err)
		}
	}
	if !errors.Is(err, failure.NotFound) {
		return err
	}
	row, rerr := h.Image(ctx, ref)
	if rerr != nil {
		return err
	}
	who, err := h.Holders(ctx, digest.Digest(row.ID))
	switch {
	case err != nil:
		return err
	case len(who) > 0:
		return h.orUnpin(ctx, digest.Digest(row.ID), ref,
			failure.New(failure.Conflict, "image %s has no name and is held by %s", strings.TrimPrefix(row.ID, "sha256:")[:12], strings.Join(who, ", ")))
	}
	return failure.Hint(failure.New(failure.Conflict, "image %s has no name, and nothing holds it", strings.TrimPrefix(row.ID, "sha256:")[:12]), hint.Collect.Of()+" frees it")
}

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store"
)

// digestOf takes a digest as any command prints it: whole or its first digits,
// with sha256: or without; and the name of an image.
func digestOf(ctx context.Context, r *house.House, ref string) (digest.Digest, error) {
	im, err := r.Images.Get(ctx, ref)
	if err == nil {
		return im.ID, nil
	}
	hex, ok := spelling.Digits(ref)
	if !ok || !errors.Is(err, failure.NotFound) && !errors.Is(err, failure.Conflict) {
		return "", err // of a name that is none
	}
	if len(hex) == 64 {
		return digest.NewDigestFromEncoded(digest.SHA256, hex), nil
	}
	return blobOf(r, ref, hex)
}

// blobOf finds the one blob, of snapshots or of images, whose digest begins so.
func blobOf(r *house.House, ref, hex string) (digest.Digest, error) {
	var found []string
	for _, folder := range []string{r.Store.Path("blobs", "sha256"), filepath.Dir(r.Images.Path(digest.FromString("")))} {
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
		return "", failure.New(failure.NotFound, "no blob and no image %q", ref)
	case 1:
		return digest.NewDigestFromEncoded(digest.SHA256, found[0]), nil
	}
	return "", failure.New(failure.Conflict, "%q is ambiguous: %s", ref, strings.Join(found[:min(len(found), 4)], ", "))
}

// imageRowOf answers an image by name or digest. One that a VM or a snapshot brought
// along, such as the kernel of a folder, has no name and no record.
func imageRowOf(ctx context.Context, r *house.House, ref string) (imageRow, error) {
	rec, err := r.Images.Get(ctx, ref)
	if err == nil {
		return toImageRow(rec), nil
	}
	if !errors.Is(err, failure.NotFound) {
		return imageRow{}, err
	}
	d, derr := digestOf(ctx, r, ref)
	if derr != nil {
		return imageRow{}, err
	}
	fi, serr := os.Stat(r.Images.Path(d))
	if serr != nil {
		return imageRow{}, err
	}
	kind, err := roleOf(ctx, r, d)
	return imageRow{ID: d.String(), Kind: kind, Bytes: fi.Size(), VirtualBytes: fi.Size(), Created: fi.ModTime().UTC()}, err
}

// roleOf asks what a blob without a record is used as, "" where nobody uses it.
func roleOf(ctx context.Context, r *house.House, d digest.Digest) (string, error) {
	var refs []store.ImageRef
	for sn, err := range r.Store.List(ctx) {
		if err == nil {
			refs = append(refs, sn.Spec.Images...)
		}
	}
	vms, err := r.VMs.List(ctx)
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

// removeImage drops a record. Of a blob that has none there is nothing to drop: it
// goes with what holds it.
func removeImage(ctx context.Context, r *house.House, ref string) error {
	err := r.Images.Remove(ctx, ref, r.Holders)
	if errors.Is(err, failure.Conflict) && isPinned(ctx, r, ref) {
		err = failure.Hint(err, "cocoon image unpin "+ref)
	}
	if !errors.Is(err, failure.NotFound) {
		return err
	}
	row, rerr := imageRowOf(ctx, r, ref)
	if rerr != nil {
		return err
	}
	who, err := r.Holders(ctx, digest.Digest(row.ID))
	switch {
	case err != nil:
		return err
	case len(who) > 0:
		return failure.New(failure.Conflict, "image %s has no name and is held by %s", short(row.ID, false), strings.Join(who, ", "))
	}
	return failure.Hint(failure.New(failure.Conflict, "image %s has no name, and nothing holds it", short(row.ID, false)), "cocoon gc frees it")
}

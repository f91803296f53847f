package house

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
)

// PinImage keeps an image until it is unpinned, even if nothing else names it.
func (h *House) PinImage(ctx context.Context, ref string) error {
	lease, err := h.Store.Lease(ctx, "image pin")
	if err != nil {
		return err
	}
	defer lease.Release()
	im, err := h.Image(ctx, ref)
	if err != nil {
		return err
	}
	return h.Images.Pin(ctx, lease, digest.Digest(im.ID), im.Name)
}

// UnpinImage removes the pin of an image, or the pin with this id.
func (h *House) UnpinImage(ctx context.Context, ref string) error {
	d, err := h.Digest(ctx, ref)
	if err != nil && !errors.Is(err, failure.NotFound) { // it may be the id of a pin
		return err
	}
	return h.Images.Unpin(ctx, ref, d)
}

// ListImages lists the images that have a name, then those that only have a pin.
func (h *House) ListImages(ctx context.Context) ([]Image, error) {
	recs, err := h.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := h.Images.Pins(ctx)
	if err != nil {
		return nil, err
	}
	rows := []Image{}
	for _, rec := range recs {
		rows = append(rows, imported(rec))
	}
	for _, p := range pins {
		for _, d := range p.Pinned() {
			if slices.ContainsFunc(rows, func(row Image) bool { return row.ID == d.String() }) {
				continue
			}
			row, err := h.Image(ctx, d.String())
			if errors.Is(err, failure.NotFound) {
				continue // of a blob that is no image, or does not exist
			}
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	for i := range rows {
		rows[i].Pinned = slices.ContainsFunc(pins, func(p *image.Pin) bool { return p.Holds(digest.Digest(rows[i].ID)) })
	}
	return rows, nil
}

// InspectImage is Image with its holders. With an error, there may be more
// holders.
func (h *House) InspectImage(ctx context.Context, ref string) (Image, error) {
	im, err := h.Image(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	im.Holders, err = h.Holders(ctx, digest.Digest(im.ID))
	im.Pinned = h.isPinned(ctx, im.ID)
	return im, err
}

// isPinned reports whether a pin holds an image.
func (h *House) isPinned(ctx context.Context, ref string) bool {
	d, err := h.Digest(ctx, ref)
	if err != nil {
		return false
	}
	pins, _ := h.Images.Pins(ctx) // errors about unreadable ones are returned
	return slices.ContainsFunc(pins, func(p *image.Pin) bool { return p.Holds(d) })
}

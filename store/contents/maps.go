package contents

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Maps are the page maps of a snapshot, decoded. Nobody changes them.
type Maps struct {
	Memory []*pack.Map // in the order of the spec
	Disks  []*pack.Map // likewise; nil where the disk is an image
}

// Maps looks whether all that a snapshot names is there and as long as it says,
// and decodes its page maps, each once. failure.Damaged where it is not so. A disk
// may be of another size than the spec says: it had been grown. No page is read.
func (c Contents) Maps(ctx context.Context) (*Maps, error) {
	if err := c.present(); err != nil {
		return nil, err
	}
	named := map[digest.Digest]bool{}
	for _, l := range c.sn.Manifest.Layers {
		named[l.Digest] = true
	}
	decoded := map[digest.Digest]*pack.Map{}
	for _, d := range c.sn.Spec.PageMaps() {
		m, err := c.Map(ctx, d)
		if err != nil {
			return nil, errors.Join(ctx.Err(), lacking(c.sn, "page map "+string(d), "readable", err.Error()))
		}
		for _, p := range m.Packs {
			if !named[p] {
				return nil, lacking(c.sn, "page map "+string(d), "packs in the manifest", "unnamed pack "+string(p))
			}
		}
		decoded[d] = m
	}
	maps := &Maps{}
	for _, r := range c.sn.Spec.Memory {
		m := decoded[r.Map]
		if m.Bytes != r.Bytes {
			return nil, lacking(c.sn, fmt.Sprintf("RAM at %#x", r.GPA), fmt.Sprintf("%d bytes", r.Bytes), fmt.Sprintf("%d bytes", m.Bytes))
		}
		maps.Memory = append(maps.Memory, m)
	}
	for _, d := range c.sn.Spec.Disks {
		maps.Disks = append(maps.Disks, decoded[d.Map])
	}
	return maps, nil
}

// present refuses a snapshot of which a blob or an image is missing, or is of
// another size.
func (c Contents) present() error {
	for _, d := range append([]document.Descriptor{c.sn.Manifest.Config}, c.sn.Manifest.Layers...) {
		if err := isThere(c.sn, c.st.BlobPath(d.Digest), d); err != nil {
			return err
		}
	}
	for _, im := range c.sn.Spec.Images {
		if err := isThere(c.sn, c.st.ImageBlobPath(im.Digest), document.Descriptor{Digest: im.Digest, Size: im.Bytes}); err != nil {
			return err
		}
	}
	return nil
}

func isThere(sn *document.Snapshot, path string, d document.Descriptor) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return lacking(sn, "blob "+string(d.Digest), "present", "missing")
	case err != nil:
		return fmt.Errorf("snapshot %s: %w", sn.ID, err)
	case fi.Size() != d.Size:
		return lacking(sn, "blob "+string(d.Digest), fmt.Sprintf("%d bytes", d.Size), fmt.Sprintf("%d bytes", fi.Size()))
	}
	return nil
}

func lacking(sn *document.Snapshot, object, want, got string) error {
	return failure.New(failure.Damaged, "snapshot %s is damaged: %s: want %s, got %s", sn.ID, object, want, got)
}

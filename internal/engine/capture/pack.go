package capture

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/engine/prints"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// source is everything of one snapshot that still has to become blobs.
type source struct {
	store   *store.Store
	ingest  *store.Ingest
	prints  *prints.Set
	dir     *chsnap.Dir // its documents; its RAM is memory's
	memory  memory
	disks   []sourceDisk
	parent  *store.Snapshot
	onBytes func(done, total int64)

	done, total int64
}

// sourceDisk is one disk: a quiet copy at path, or live, which was packed while
// the guest ran; neither when the disk is an image blob.
type sourceDisk struct {
	path string
	live *liveDisk
	spec store.Disk
}

// pack writes RAM and disks into the ingest and fills in the facts of sp.
func (src *source) pack(ctx context.Context, sp *store.Spec) (err error) {
	w := src.ingest.Pages(ctx, sp.Images...)
	disks := diskImages{}
	defer func() {
		disks.close()
		if err != nil {
			w.Abort()
		}
	}()
	src.count()
	if err := src.memory.pack(ctx, src, w); err != nil {
		return err
	}
	if err := disks.pack(ctx, src, w); err != nil {
		return err
	}
	stats, err := w.Flush(ctx)
	if err != nil {
		return fmt.Errorf("write packs: %w", err)
	}
	if sp.Memory, err = src.memory.maps(ctx, src); err != nil {
		return err
	}
	if sp.Disks, err = disks.maps(ctx, src); err != nil {
		return err
	}
	sp.Capture.PagesNew, sp.Capture.PagesReused, sp.Capture.PagesZero = stats.PagesNew, stats.PagesReused, stats.PagesZero
	sp.Created = time.Now().UTC()
	sp.Host = hostFacts(sp.Host.VMMBuild)
	return src.putConfig(ctx, sp)
}

// close closes what was open for reading.
func (src *source) close() {
	src.prints.Close()
	if src.memory != nil {
		src.memory.close()
	}
	for _, d := range src.disks {
		if d.live != nil {
			d.live.close() // was only read
		}
	}
}

func (src *source) count() {
	src.total += src.memory.bytes()
	for _, d := range src.disks {
		if d.path != "" {
			src.total += d.spec.Bytes
		}
	}
}

func (src *source) progress(n int64) {
	if src.onBytes != nil {
		src.onBytes(addDone(&src.done, n), src.total)
	}
}

// diskImages are the images of a snapshot's disks; nil where the disk is a blob.
type diskImages struct {
	specs   []store.Disk
	images  []*packer.ImageWriter
	parents []*pack.Image
}

func (d *diskImages) pack(ctx context.Context, src *source, w *packer.Writer) error {
	for i, disk := range src.disks {
		d.specs = append(d.specs, disk.spec)
		d.images, d.parents = append(d.images, nil), append(d.parents, nil)
		if disk.live != nil {
			d.images[i], d.parents[i] = disk.live.image, disk.live.parent
			if err := disk.live.pack(); err != nil {
				return fmt.Errorf("pack disk %d: %w", disk.spec.Index, err)
			}
			continue
		}
		if disk.path == "" {
			continue
		}
		parent, pageMap := src.parentDisk(ctx, i)
		d.parents[i] = parent
		d.images[i] = w.Image(uint64(disk.spec.Bytes), parent)
		src.prints.Of(ctx, d.images[i], pageMap)
		if err := packFile(ctx, d.images[i], disk.path, src.progress); err != nil {
			return fmt.Errorf("pack disk %d: %w", disk.spec.Index, err)
		}
	}
	return nil
}

func packFile(ctx context.Context, iw *packer.ImageWriter, path string, onBytes func(int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return iw.ReadFrom(ctx, f, onBytes)
}

// parentDisk is the parent's image of a disk and its page map, if any. A parent
// that cannot be read only costs reuse, never the capture.
func (src *source) parentDisk(ctx context.Context, i int) (*pack.Image, digest.Digest) {
	if src.parent == nil || i >= len(src.parent.Spec.Disks) || src.parent.Spec.Disks[i].Map == "" {
		return nil, ""
	}
	// A parent that cannot be read only costs reuse, never the capture.
	im, err := contents.Of(src.store, src.parent).Disk(ctx, i)
	if err != nil {
		return nil, ""
	}
	return im, src.parent.Spec.Disks[i].Map
}

func (d *diskImages) maps(ctx context.Context, src *source) ([]store.Disk, error) {
	for i, iw := range d.images {
		if iw == nil {
			continue
		}
		var err error
		if d.specs[i].Map, err = src.putMap(ctx, iw); err != nil {
			return nil, fmt.Errorf("disk %d: %w", d.specs[i].Index, err)
		}
	}
	return d.specs, nil
}

func (d *diskImages) close() {
	for _, p := range d.parents {
		if p != nil {
			p.Close()
		}
	}
}

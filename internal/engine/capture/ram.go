package capture

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// memory is the source of a snapshot's RAM.
type memory interface {
	// bytes of RAM that pack still has to read.
	bytes() int64
	// pack gives w everything it has not been given yet.
	pack(ctx context.Context, src *source, w *packer.Writer) error
	// maps stores the page maps, once the writer was flushed.
	maps(ctx context.Context, src *source) ([]store.MemoryRange, error)
	close()
}

// ramImages are the images of a guest's RAM ranges, each with the parent's image
// of the same address.
type ramImages struct {
	ranges  []chsnap.Range
	images  []*packer.ImageWriter
	parents []*pack.Image
}

// openRAM begins the images of RAM.
func (src *source) openRAM(ctx context.Context, w *packer.Writer, ranges []chsnap.Range) ramImages {
	ram := ramImages{ranges: ranges}
	for _, r := range ranges {
		parent, pageMap := src.parentMemory(ctx, r)
		ram.parents = append(ram.parents, parent)
		iw := w.Image(r.Length, parent)
		src.prints.Of(ctx, iw, pageMap)
		ram.images = append(ram.images, iw)
	}
	return ram
}

// parentMemory is the parent's image of a range and its page map, if any. A
// parent that cannot be read only costs reuse, never the capture.
func (src *source) parentMemory(ctx context.Context, r chsnap.Range) (*pack.Image, digest.Digest) {
	if src.parent == nil {
		return nil, ""
	}
	for i, m := range src.parent.Spec.Memory {
		if m.GPA == r.GPA {
			// A parent that cannot be read only costs reuse, never the capture.
			if im, err := contents.Of(src.store, src.parent).Memory(ctx, i); err == nil {
				return im, m.Map
			}
		}
	}
	return nil, ""
}

func (m *ramImages) maps(ctx context.Context, src *source) ([]store.MemoryRange, error) {
	var out []store.MemoryRange
	for i, r := range m.ranges {
		d, err := src.putMap(ctx, m.images[i])
		if err != nil {
			return nil, fmt.Errorf("RAM at %#x: %w", r.GPA, err)
		}
		out = append(out, store.MemoryRange{GPA: r.GPA, Bytes: r.Length, Map: d})
	}
	return out, nil
}

func (m *ramImages) close() {
	for _, p := range m.parents {
		if p != nil {
			p.Close()
		}
	}
}

// fileMemory is RAM in a folder's memory-ranges.
type fileMemory struct {
	ramImages
	dir  *chsnap.Dir
	open func() (*os.File, error)
}

// staged is the RAM of a folder written for us by the VMM.
func staged(dir *chsnap.Dir) *fileMemory {
	return &fileMemory{dir: dir, open: func() (*os.File, error) {
		return os.OpenFile(dir.MemoryPath, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	}}
}

func (m *fileMemory) bytes() (sum int64) {
	for _, r := range m.dir.Ranges {
		sum += int64(r.Length)
	}
	return sum
}

func (m *fileMemory) pack(ctx context.Context, src *source, w *packer.Writer) error {
	f, err := m.open()
	if err != nil {
		return fmt.Errorf("open captured RAM: %w", err)
	}
	defer f.Close()
	m.ramImages = src.openRAM(ctx, w, m.dir.Ranges)
	var offset int64
	for i, r := range m.ranges {
		var part io.ReaderAt = io.NewSectionReader(f, offset, int64(r.Length))
		if len(m.ranges) == 1 {
			part = f // whole file: holes can be skipped
		}
		if err := m.images[i].ReadFrom(ctx, part, src.progress); err != nil {
			return fmt.Errorf("pack RAM at %#x: %w", r.GPA, err)
		}
		offset += int64(r.Length)
	}
	return nil
}

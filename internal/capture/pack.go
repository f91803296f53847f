package capture

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
)

// source is everything of one snapshot that still has to become blobs.
type source struct {
	dir     *chsnap.Dir
	disks   []sourceDisk
	parent  *store.Snapshot
	onBytes func(done, total int64)

	done, total int64
}

// sourceDisk is a quiet copy of one disk; path is empty when the disk is an
// image blob.
type sourceDisk struct {
	path string
	spec store.Disk
}

// pack writes RAM and disks into the ingest and fills in the facts of sp.
func (src *source) pack(ctx context.Context, st *store.Store, lease *store.Lease, in *store.Ingest, sp *store.Spec) error {
	w := in.Pages(ctx, sp.Images...)
	var finish []func() error
	defer func() {
		if finish != nil {
			w.Abort()
		}
	}()
	src.count()
	finish = append(finish, func() error { return nil })
	fin, err := src.packMemory(ctx, st, lease, in, w, sp)
	if err != nil {
		return err
	}
	finish = append(finish, fin...)
	if fin, err = src.packDisks(ctx, st, lease, in, w, sp); err != nil {
		return err
	}
	finish = append(finish, fin...)
	stats, err := w.Flush(ctx)
	if err != nil {
		return fmt.Errorf("write packs: %w", err)
	}
	for _, f := range finish {
		if err := f(); err != nil {
			return err
		}
	}
	finish = nil
	sp.Capture.PagesNew, sp.Capture.PagesReused, sp.Capture.PagesZero = stats.PagesNew, stats.PagesReused, stats.PagesZero
	sp.Created = time.Now().UTC()
	sp.Host = hostFacts()
	return src.putConfig(ctx, in, sp)
}

func (src *source) count() {
	for _, r := range src.dir.Ranges {
		src.total += int64(r.Length)
	}
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

func (src *source) packMemory(ctx context.Context, st *store.Store, lease *store.Lease, in *store.Ingest, w *pack.Writer, sp *store.Spec) ([]func() error, error) {
	f, err := os.OpenFile(src.dir.MemoryPath, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open captured RAM: %w", err)
	}
	defer f.Close()
	var finish []func() error
	var offset int64
	sp.Memory = make([]store.MemoryRange, len(src.dir.Ranges))
	for i, r := range src.dir.Ranges {
		parent := src.parentMemory(ctx, st, lease, r)
		var part io.ReaderAt = io.NewSectionReader(f, offset, int64(r.Length))
		if len(src.dir.Ranges) == 1 {
			part = f // whole file: holes can be skipped
		}
		iw := w.Image(r.Length, parent)
		if err := iw.ReadFrom(ctx, part, src.progress); err != nil {
			return nil, fmt.Errorf("pack RAM at %#x: %w", r.GPA, err)
		}
		offset += int64(r.Length)
		finish = append(finish, func() error {
			if parent != nil {
				defer parent.Close()
			}
			d, err := putMap(ctx, in, iw)
			sp.Memory[i] = store.MemoryRange{GPA: r.GPA, Bytes: r.Length, Map: d}
			return err
		})
	}
	return finish, nil
}

func (src *source) parentMemory(ctx context.Context, st *store.Store, lease *store.Lease, r chsnap.Range) *pack.Image {
	if src.parent == nil {
		return nil
	}
	for i, m := range src.parent.Spec.Memory {
		if m.GPA == r.GPA {
			// A parent that cannot be read only costs reuse, never the capture.
			if im, err := st.OpenMemory(ctx, lease, src.parent, i); err == nil {
				return im
			}
		}
	}
	return nil
}

func (src *source) packDisks(ctx context.Context, st *store.Store, lease *store.Lease, in *store.Ingest, w *pack.Writer, sp *store.Spec) ([]func() error, error) {
	var finish []func() error
	sp.Disks = make([]store.Disk, len(src.disks))
	for i, d := range src.disks {
		sp.Disks[i] = d.spec
		if d.path == "" {
			continue
		}
		f, err := os.Open(d.path)
		if err != nil {
			return nil, fmt.Errorf("open copy of disk %d: %w", d.spec.Index, err)
		}
		var parent *pack.Image
		if src.parent != nil && i < len(src.parent.Spec.Disks) && src.parent.Spec.Disks[i].Map != "" {
			parent, _ = st.OpenDisk(ctx, lease, src.parent, i)
		}
		iw := w.Image(uint64(d.spec.Bytes), parent)
		err = iw.ReadFrom(ctx, f, src.progress)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("pack disk %d: %w", d.spec.Index, err)
		}
		finish = append(finish, func() error {
			if parent != nil {
				defer parent.Close()
			}
			m, err := putMap(ctx, in, iw)
			sp.Disks[i].Map = m
			return err
		})
	}
	return finish, nil
}

package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/clone"
)

// Disks are writable while the guest runs, so each is either cloned during the
// pause, if the file system shares blocks (XFS, Btrfs), or packed before and
// compared during the pause. A trial decides in advance: cloning a very
// fragmented file can take longer than reading it.

// comparedPerSecond is the rate of comparing a disk in the page cache with two
// processors, bytes; it only chooses between two correct methods.
const comparedPerSecond = 4 << 30

// readyDisks prepares each writable disk as far as possible while the guest runs.
func (c *session) readyDisks(ctx context.Context, src *source) error {
	for i, d := range c.rec.Disks {
		if d.Readonly {
			continue
		}
		path := filepath.Join(c.VMs.Dir(c.rec.ID), d.File)
		shared, err := c.clonesFast(path)
		if err == nil && !shared {
			err = c.readyLive(ctx, src, i, path)
		}
		if err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	return nil
}

// clonesFast tries a clone of a disk into the ingest.
func (c *session) clonesFast(path string) (bool, error) {
	took, err := clone.TryReflink(filepath.Join(c.ingest.Dir(), "trial"), path)
	if errors.Is(err, clone.ErrNoReflink) {
		return false, nil
	}
	compare := time.Duration(float64(allocated(path)) / comparedPerSecond * float64(time.Second))
	return took <= max(compare, 10*time.Millisecond), err
}

func (c *session) readyLive(ctx context.Context, src *source, i int, path string) error {
	parent, pageMap := src.parentDisk(ctx, i)
	live, err := newLiveDisk(path, c.ingest.Dir(), c.ingest.Pages(ctx, imageRefs(c.rec)...), parent)
	if err != nil {
		return err
	}
	src.prints.Of(ctx, live.image, pageMap)
	src.disks[i].live, src.disks[i].spec.Bytes = live, live.bytes
	src.total += live.bytes
	return live.first(ctx, src.progress)
}

// writeOut flushes what the guest has written since, as the file system would
// otherwise do before a clone, during the pause.
func (c *session) writeOut(src *source) error {
	for i, d := range c.rec.Disks {
		if d.Readonly || src.disks[i].live != nil {
			continue
		}
		f, err := os.Open(filepath.Join(c.VMs.Dir(c.rec.ID), d.File))
		if err != nil {
			return err
		}
		err = unix.Fdatasync(int(f.Fd()))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write out disk %d: %w", d.Index, err)
		}
	}
	return nil
}

// quietDisks captures the disks during the pause.
func (c *session) quietDisks(ctx context.Context, src *source) error {
	if err := c.checkDisks(); err != nil {
		return err
	}
	for i, d := range c.rec.Disks {
		if d.Readonly {
			continue
		}
		var err error
		if live := src.disks[i].live; live != nil {
			err = live.changed(ctx)
		} else {
			dst := filepath.Join(c.ingest.Dir(), fmt.Sprintf("disk-%d.staged", d.Index))
			src.disks[i].spec.Bytes, err = cloneDisk(ctx, dst, filepath.Join(c.VMs.Dir(c.rec.ID), d.File))
			src.disks[i].path = dst
		}
		if err != nil {
			return fmt.Errorf("copy disk %d of VM %s: %w", d.Index, c.rec.Name, err)
		}
	}
	return nil
}

// cloneDisk returns the size of the clone: a disk may have been grown since its
// VM was made.
func cloneDisk(ctx context.Context, dst, disk string) (int64, error) {
	if _, err := clone.File(ctx, dst, disk, clone.Options{Fleeting: true}); err != nil {
		return 0, err
	}
	fi, err := os.Stat(dst)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

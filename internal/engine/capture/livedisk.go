package capture

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/internal/base/mapped"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

const (
	// smallestBlock is what is compared and, where it changed, taken again.
	smallestBlock = 64 << 10
	// mostBlocks limits the prints; larger disks have larger blocks.
	mostBlocks = 1 << 20
	// readBytes is the size of a read: it stays in the processor's cache until
	// its blocks have their prints.
	readBytes = 4 * smallestBlock
	// stretchBytes is the work unit of one worker.
	stretchBytes = 16 * readBytes
)

// liveDisk is a disk that is packed while the guest runs and writes to it,
// because the file system cannot clone it instantly. The first pass packs every
// block that holds data and keeps its fingerprint, under a key that never leaves
// the process. During the pause all processors read all blocks again, from the
// page cache that the first pass filled; blocks whose print changed are put aside
// and packed afterwards.
type liveDisk struct {
	file   *os.File
	bytes  int64
	block  int64 // bytes of one
	read   int64 // bytes of one read: a block at least
	image  *packer.ImageWriter
	parent *pack.Image
	later  *overlay
	key    *fingerprint.Key
	prints map[int64]fingerprint.Print // by number of the block
	seen   atomic.Int64                // prints that changed has compared
	before unix.Stat_t                 // of the file, before the first pass
	began  time.Time
}

// newLiveDisk opens a disk; its image belongs to w. dir is for the overlay.
func newLiveDisk(path, dir string, w *packer.Writer, parent *pack.Image) (*liveDisk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &liveDisk{file: f, parent: parent, prints: map[int64]fingerprint.Print{}, began: time.Now()}
	if err := unix.Fstat(int(f.Fd()), &d.before); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", path, err), f.Close())
	}
	d.bytes, d.block = d.before.Size, smallestBlock
	for d.bytes/d.block > mostBlocks {
		d.block *= 2
	}
	d.read = max(readBytes, d.block)
	if d.later, err = newOverlay(dir, uint64(d.bytes)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.image = w.Image(uint64(d.bytes), parent)
	if d.key, err = ownKey(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// ownKey is a random key of this process.
func ownKey() (*fingerprint.Key, error) {
	var secret [fingerprint.SecretBytes]byte
	rand.Read(secret[:]) // never fails
	return fingerprint.New(secret, "disk")
}

// first packs the disk's present data, piece by piece, while the guest runs. A
// block that is written meanwhile, even a torn one, has another print later.
func (d *liveDisk) first(ctx context.Context, onBytes func(int64)) error {
	buf := make([]byte, d.read)
	reached := int64(0)
	for at := int64(0); ; {
		from, to, err := d.nextData(at)
		if errors.Is(err, io.EOF) {
			onBytes(d.bytes - reached)
			return nil
		}
		if err != nil {
			return err
		}
		for off := from; off < to; off += d.read {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(d.read, to-off)]
			if err := d.fill(p, off); err != nil {
				return err
			}
			d.each(p, off, func(block int64, b []byte) error { d.prints[block] = d.key.Of(b, uint64(block)); return nil })
			if _, err := d.image.WriteAt(p, off); err != nil {
				return err
			}
			onBytes(off + int64(len(p)) - reached)
			reached = off + int64(len(p))
		}
		at = to
	}
}

// nextData is the next stretch of data, widened to whole blocks.
func (d *liveDisk) nextData(at int64) (from, to int64, err error) {
	if at >= d.bytes {
		return 0, 0, io.EOF
	}
	if from, to, err = clone.NextData(d.file, at, d.bytes); err != nil {
		return 0, 0, err
	}
	from = max(from/d.block*d.block, at)
	return from, min((to+d.block-1)/d.block*d.block, d.bytes), nil
}

func (d *liveDisk) fill(p []byte, off int64) error {
	if n, err := d.file.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read disk at byte %d: %w", off+int64(n), err)
	}
	return nil
}

// each calls do for the blocks of p.
func (d *liveDisk) each(p []byte, off int64, do func(block int64, b []byte) error) error {
	for at := int64(0); at < int64(len(p)); at += d.block {
		if err := do((off+at)/d.block, p[at:min(at+d.block, int64(len(p)))]); err != nil {
			return err
		}
	}
	return nil
}

// changed puts aside what differs from the first pass, during the pause. A file
// whose timestamps did not change was not written to: nothing is read.
func (d *liveDisk) changed(ctx context.Context) error {
	if d.untouched() {
		return nil
	}
	if fi, err := d.file.Stat(); err == nil && fi.Size() != d.bytes {
		return failure.New(failure.Conflict, "it was resized from %d to %d bytes while it was being saved; try again", d.bytes, fi.Size())
	}
	var stretches [][2]int64
	for at := int64(0); ; {
		from, to, err := d.nextData(at)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for off := from; off < to; off += max(stretchBytes, d.read) {
			stretches = append(stretches, [2]int64{off, min(off+max(stretchBytes, d.read), to)})
		}
		at = to
	}
	if err := d.compare(ctx, stretches); err != nil {
		return err
	}
	return d.emptied(stretches)
}

// untouched: the timestamps of a file change with every write, in steps of a few
// milliseconds on older kernels; so a file written to just before the first pass
// is compared.
func (d *liveDisk) untouched() bool {
	var now unix.Stat_t
	if unix.Fstat(int(d.file.Fd()), &now) != nil {
		return false
	}
	b := d.before
	return now.Mtim == b.Mtim && now.Ctim == b.Ctim && now.Size == b.Size &&
		time.Unix(b.Mtim.Unix()).Before(d.began.Add(-time.Second)) && time.Unix(b.Ctim.Unix()).Before(d.began.Add(-time.Second))
}

// compare reads stretches with all processors.
func (d *liveDisk) compare(ctx context.Context, stretches [][2]int64) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, d.read)
			for i := next.Add(1) - 1; i < int64(len(stretches)); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := d.compareStretch(buf, stretches[i][0], stretches[i][1]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// compareStretch reads the page cache itself if it can be mapped: the guest
// waits, and a copy would take a third of the time.
func (d *liveDisk) compareStretch(buf []byte, from, to int64) error {
	if data, err := mapped.Open(d.file, from, to-from); err == nil {
		defer mapped.Close(data)
		return mapped.Guard(func() error { return d.compareBlocks(data, from) })
	}
	for off := from; off < to; off += d.read {
		p := buf[:min(d.read, to-off)]
		if err := d.fill(p, off); err != nil {
			return err
		}
		if err := d.compareBlocks(p, off); err != nil {
			return err
		}
	}
	return nil
}

func (d *liveDisk) compareBlocks(p []byte, off int64) error {
	return d.each(p, off, func(block int64, b []byte) error {
		if was, ok := d.prints[block]; ok {
			d.seen.Add(1)
			if was == d.key.Of(b, uint64(block)) {
				return nil
			}
		}
		return d.later.put(b, block*d.block)
	})
}

// emptied zeroes blocks that held data and are holes now.
func (d *liveDisk) emptied(stretches [][2]int64) error {
	if d.seen.Load() == int64(len(d.prints)) {
		return nil
	}
	left := maps.Clone(d.prints)
	for _, s := range stretches {
		for off := s[0]; off < s[1]; off += d.block {
			delete(left, off/d.block)
		}
	}
	for block := range left {
		off := block * d.block
		if err := d.later.put(make([]byte, min(d.block, d.bytes-off)), off); err != nil {
			return err
		}
	}
	return nil
}

// pack packs the changed blocks over the first pass.
func (d *liveDisk) pack() error {
	return d.later.each(func(p []byte, off int64) error {
		_, err := d.image.WriteAt(p, off)
		return err
	})
}

func (d *liveDisk) close() error {
	d.later.close()
	return d.file.Close()
}

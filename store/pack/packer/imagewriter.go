package packer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/opencontainers/go-digest"
)

// ImageWriter takes the pages of one image. Pages never written are zero.
type ImageWriter struct {
	w           *Writer
	bytes       uint64
	parent      *pack.Image
	parentPacks []int // number in the Writer's table of each parent pack
	places      placement
	prints      *Fingerprints // nil: every page that is not zero is hashed
	written     bool          // guarded by w.dispatch: some page may be non-zero already
}

// WriteAt gives pages of the image: off is a multiple of PageSize, len(p) too
// unless p ends the image. p may be reused after the return. A later write of
// the same page replaces an earlier one. Errors may belong to earlier calls.
func (iw *ImageWriter) WriteAt(p []byte, off int64) (int, error) {
	end := uint64(off) + uint64(len(p))
	if off < 0 || off%pack.PageSize != 0 || end > iw.bytes || (len(p)%pack.PageSize != 0 && end != iw.bytes) {
		return 0, fmt.Errorf("write image: %d bytes at %d are not whole pages of an image of %d bytes", len(p), off, iw.bytes)
	}
	w := iw.w
	w.dispatch.Lock()
	defer w.dispatch.Unlock()
	if w.closed {
		return 0, errEnded
	}
	iw.written = true
	for done := 0; done < len(p); {
		j, err := iw.openJob()
		if err != nil {
			return done, err
		}
		n := j.batch.take(p[done:], uint64(off+int64(done))/pack.PageSize)
		done += n
		if len(j.batch.pages) == pack.FramePages {
			if err := w.sendOpen(); err != nil {
				return done, err
			}
		}
	}
	return len(p), w.err()
}

// openJob is the job that gathers this image's writes. w.dispatch is held.
func (iw *ImageWriter) openJob() (*job, error) {
	w := iw.w
	if w.open != nil && w.open.iw == iw {
		return w.open, nil
	}
	if err := w.sendOpen(); err != nil {
		return nil, err
	}
	b, err := w.batch()
	if err != nil {
		return nil, err
	}
	w.open = &job{iw: iw, batch: b}
	return w.open, nil
}

// take copies as many pages from the front of p as fit and gives their bytes.
func (b *batch) take(p []byte, page uint64) int {
	at := len(b.pages) * pack.PageSize
	n := copy(b.data[at:], p)
	padded := (n + pack.PageSize - 1) / pack.PageSize
	clear(b.data[at+n : at+padded*pack.PageSize])
	for i := range padded {
		b.pages = append(b.pages, page+uint64(i))
	}
	return n
}

// ReadFrom takes the whole image from r, which must hold at least the image's
// bytes. Holes of an *os.File, or of an io.SectionReader over one, are skipped
// (this moves the file's offset). onBytes, if not nil, is told of bytes done
// since its last call, holes included, by one goroutine at a time. An error
// ends the Writer, since the image would be incomplete. r is not used after
// the return.
func (iw *ImageWriter) ReadFrom(ctx context.Context, r io.ReaderAt, onBytes func(n int64)) error {
	w := iw.w
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()
	var pending sync.WaitGroup
	report := pack.Progress{OnBytes: onBytes}
	var reached int64
	mapped := windows{r: r}
	defer mapped.close()
	err := iw.eachExtent(r, func(start, end int64) error {
		report.Add(start - reached)
		reached = end
		for at := start; at < end; at += frameRawBytes {
			n := min(end-at, frameRawBytes)
			pending.Add(1)
			j := &job{iw: iw, read: r, offset: at, length: int(n), done: func(err error) {
				defer pending.Done()
				if err == nil {
					report.Add(n)
				}
			}}
			j.window, j.within = mapped.window(at, n, end)
			err := iw.sendRead(j)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.fail(err)
	}
	pending.Wait()
	report.Add(int64(iw.bytes) - reached)
	return w.err()
}

// sendRead gives a job that reads the next turn. Its done is always called.
func (iw *ImageWriter) sendRead(j *job) error {
	w := iw.w
	w.dispatch.Lock()
	defer w.dispatch.Unlock()
	err := errEnded
	if !w.closed {
		err = w.sendOpen()
	}
	if err == nil {
		j.batch, err = w.batch()
	}
	if err != nil {
		j.window.leave()
		j.done(err)
		return err
	}
	return w.send(j)
}

// smallHole is read rather than skipped: it would split a frame's read in two.
const smallHole = 64 << 10

// eachExtent calls do for the parts of the source that may hold data, in
// order, aligned to pages.
func (iw *ImageWriter) eachExtent(r io.ReaderAt, do func(start, end int64) error) error {
	iw.w.dispatch.Lock()
	overwrites := iw.written
	iw.written = true
	iw.w.dispatch.Unlock()
	size := int64(iw.bytes)
	f, base := fileOf(r)
	if f == nil || overwrites { // a hole must then clear what was written
		return do(0, size)
	}
	for at := int64(0); at < size; {
		start, end := nextExtent(f, base+at, base+size)
		start = max((start-base)/pack.PageSize*pack.PageSize, at)
		end = min((end-base+pack.PageSize-1)/pack.PageSize*pack.PageSize, size)
		for end < size { // swallow small holes
			s, e := nextExtent(f, base+end, base+size)
			if s-base-end >= smallHole || e <= base+end {
				break
			}
			end = min((e-base+pack.PageSize-1)/pack.PageSize*pack.PageSize, size)
		}
		if start >= size || end <= start {
			return nil
		}
		if err := do(start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// fileOf gives the file under r and the offset in it at which r begins.
func fileOf(r io.ReaderAt) (*os.File, int64) {
	switch r := r.(type) {
	case *os.File:
		return r, 0
	case *io.SectionReader:
		outer, off, _ := r.Outer()
		if f, ok := outer.(*os.File); ok {
			return f, off
		}
	}
	return nil, 0
}

// nextExtent is the first data at or after at, up to size; start = size when
// only a hole follows. Where the file system cannot tell, all is data.
func nextExtent(f *os.File, at, size int64) (start, end int64) {
	start, err := f.Seek(at, unix.SEEK_DATA)
	if err != nil {
		if isNoMoreData(err) && fileReaches(f, size) {
			return size, size
		}
		return at, size
	}
	if start >= size {
		return size, size
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil || end > size {
		end = size
	}
	if end < size && !fileReaches(f, size) {
		end = size // reading past the file's end must fail, not give zeros
	}
	return start, end
}

var errNotFlushed = errors.New("finish page map: the pack writer was not flushed")

// Finish gives the image's map. It may be called once Writer.Flush has
// succeeded.
func (iw *ImageWriter) Finish() (*pack.Map, error) {
	w := iw.w
	w.dispatch.Lock()
	defer w.dispatch.Unlock()
	if !w.flushed {
		return nil, errNotFlushed
	}
	m := &pack.Map{Bytes: iw.bytes}
	numbers := make([]int, len(w.table.known)+len(w.out.packs)) // in the map of each pack, from 1
	for _, at := range iw.places.sorted() {
		for i, l := range iw.places.leaves[at] {
			if l == 0 {
				continue
			}
			from, page := w.resolve(l)
			if numbers[from] == 0 {
				numbers[from] = m.Number(w.digest(from)) + 1
			}
			m.Add(pack.Run{First: at*leafPages + uint64(i), Pages: 1, Pack: uint32(numbers[from] - 1), PackPage: page})
		}
	}
	return m, nil
}

// resolve gives the pack and page of a location after Flush. Packs are counted
// from the known ones through those that this Writer made.
func (w *Writer) resolve(l location) (number int, page uint32) {
	if l.isNew() {
		n := uint64(l &^ newPage)
		s := w.out.starts[n/pack.FramePages]
		return len(w.table.known) + int(s.pack), s.first + uint32(n%pack.FramePages)
	}
	return w.table.stored(l)
}

// digest names a pack that resolve gave.
func (w *Writer) digest(number int) digest.Digest {
	if known := len(w.table.known); number >= known {
		return w.out.packs[number-known]
	}
	return w.table.known[number].Digest
}

func isNoMoreData(err error) bool { return errors.Is(err, unix.ENXIO) }

// fileReaches reports whether a file is at least size bytes long.
func fileReaches(f *os.File, size int64) bool {
	st, err := f.Stat()
	return err == nil && st.Size() >= size
}

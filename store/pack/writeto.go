package pack

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// WriteTo writes the image's non-zero pages to w and keeps workers CPUs busy (0:
// all), verified as [Image.EachFrame] says. Zero pages are not written: w must
// be fresh. w may be an *os.File or a part of one ([At]): neighbouring pages are
// then written by one call. WriteAt is called by one goroutine at a time.
// onBytes, if not nil, is told of image bytes done since its last call, zero
// pages included, by one goroutine at a time.
func (im *Image) WriteTo(ctx context.Context, w io.WriterAt, workers int, onBytes func(n int64)) error {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = min(workers, maxDecoders)
	report := &Progress{OnBytes: onBytes}
	report.Add(im.m.zeroBytes())
	q := newWriteQueue(w, workers+aheadOfWriter, report)
	return im.eachFrame(ctx, workers, func(ctx context.Context, _ int, f neededFrame) error {
		e, err := q.expander(ctx, im)
		if err != nil {
			return err
		}
		if err := e.expand(f); err != nil {
			return err
		}
		return q.write(e)
	})
}

const (
	// maxDecoders is more than one writer can keep up with: to write a page takes
	// about a quarter of what decoding and checking it takes.
	maxDecoders = 16
	// aheadOfWriter is how many decoded frames may wait to be written.
	aheadOfWriter = 4
)

// writeQueue writes decoded frames to one file. The kernel lets one writer at a
// time into a file and has the others spin or sleep. Here who finds somebody
// writing leaves his frame to him and goes on decoding.
type writeQueue struct {
	scatterer scatterer // of who is writing
	report    *Progress
	slots     chan struct{} // one for each expander that is in use

	mu      sync.Mutex
	writing bool
	waiting []*expander // decoded
	free    []*expander // the last one used was used last: the caches know it
}

func newWriteQueue(w io.WriterAt, expanders int, report *Progress) *writeQueue {
	if f, ok := w.(*os.File); ok {
		w = At(f, 0)
	}
	return &writeQueue{scatterer: scatterer{w: w}, report: report, slots: make(chan struct{}, expanders)}
}

// expander waits for an expander whose parts are written.
func (q *writeQueue) expander(ctx context.Context, im *Image) (*expander, error) {
	select {
	case q.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.free); n > 0 {
		e := q.free[n-1]
		q.free = q.free[:n-1]
		return e, nil
	}
	return newExpander(im)
}

// write sees to it that the parts of e are written, now or by another's call of
// write. That one gets the error, too.
func (q *writeQueue) write(e *expander) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, e)
	if q.writing {
		return nil
	}
	q.writing = true
	defer func() { q.writing = false }()
	for len(q.waiting) > 0 {
		last := len(q.waiting) - 1
		next := q.waiting[last]
		q.waiting = q.waiting[:last]
		if err := q.writeUnlocked(next); err != nil {
			return err
		}
		q.free = append(q.free, next)
		<-q.slots
	}
	return nil
}

func (q *writeQueue) writeUnlocked(e *expander) error {
	q.mu.Unlock()
	defer q.mu.Lock()
	n, err := q.scatterer.scatter(e.parts)
	q.report.Add(n)
	return err
}

// At is the part of a file from byte off on, as a target of WriteTo. Unlike an
// [io.OffsetWriter] it lets neighbouring pages be written by one call.
func At(f *os.File, off int64) io.WriterAt { return fileAt{f, off} }

type fileAt struct {
	file *os.File
	base int64
}

func (a fileAt) WriteAt(p []byte, off int64) (int, error) { return a.file.WriteAt(p, a.base+off) }

// scatterer writes parts to their places.
type scatterer struct {
	w       io.WriterAt
	vectors [][]byte
}

// scatter writes parts to their places, neighbours by one call, and gives the
// bytes written.
func (s *scatterer) scatter(parts []Part) (int64, error) {
	var total int64
	for len(parts) > 0 {
		start, end := parts[0].Offset, parts[0].Offset
		s.vectors = s.vectors[:0]
		for len(parts) > 0 && parts[0].Offset == end {
			s.vectors = append(s.vectors, parts[0].Data)
			end += int64(len(parts[0].Data))
			parts = parts[1:]
		}
		n, err := s.write(start)
		total += n
		if err != nil {
			return total, fmt.Errorf("write image at %d: %w", start, err)
		}
	}
	return total, nil
}

// maxVectors is what one pwritev takes (IOV_MAX).
const maxVectors = 1024

// write writes the gathered vectors one behind the other from off on.
func (s *scatterer) write(off int64) (int64, error) {
	start, vectors := off, s.vectors
	if part, ok := s.w.(fileAt); ok && len(vectors) > 1 && len(vectors) <= maxVectors {
		n, err := pwritev(part.file, vectors, part.base+off)
		if err != nil {
			return 0, err
		}
		for n > 0 && n >= len(vectors[0]) {
			n -= len(vectors[0])
			off += int64(len(vectors[0]))
			vectors = vectors[1:]
			if len(vectors) == 0 {
				return off - start, nil
			}
		}
		vectors[0] = vectors[0][n:]
		off += int64(n)
	}
	for _, part := range vectors {
		n, err := s.w.WriteAt(part, off)
		if err != nil {
			return 0, err
		}
		off += int64(n)
	}
	return off - start, nil
}

func pwritev(f *os.File, parts [][]byte, off int64) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(fd uintptr) {
		for {
			if n, err = unix.Pwritev(int(fd), parts, off); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	return max(n, 0), err
}

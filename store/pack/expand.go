package pack

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// piece is a part of a run within one frame.
type piece struct {
	first    uint64 // page of the image
	packPage uint32
	pages    uint32
}

// plan lists the pieces by frame, frames in pack order and the pieces of each
// in image order, so that neighbours can be written together.
type plan struct {
	pieces []piece
	starts []int    // pieces[starts[f]:starts[f+1]] belong to frame f of the image
	packs  []uint32 // pack of each frame
}

// Part is bytes of an image and where they stand in it.
type Part struct {
	Offset int64
	Data   []byte
}

// EachFrame gives visit the image's non-zero pages, one frame a call: each
// needed frame is read once, in pack order, by workers goroutines, and every
// page is compared with its hash before it is given away. The parts of a call
// are in image order and do not overlap; they are valid until visit returns.
// worker, below workers, says which goroutine calls.
func (im *Image) EachFrame(ctx context.Context, workers int, visit func(worker int, parts []Part) error) error {
	pl := im.plan()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for worker := range workers {
		group.Go(func() error {
			e, err := newExpander(im)
			if err != nil {
				return err
			}
			for ctx.Err() == nil {
				f := int(next.Add(1) - 1)
				if f >= len(pl.packs) {
					return nil
				}
				parts, err := e.frame(pl.packs[f], f, pl.pieces[pl.starts[f]:pl.starts[f+1]])
				if err == nil && len(parts) > 0 {
					err = visit(worker, parts)
				}
				if err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}

// WriteTo writes the image's non-zero pages to w and keeps workers CPUs busy (0:
// all), verified as [Image.EachFrame] says. Zero pages are not written: w must
// be fresh. w may be an *os.File (neighbouring pages are then written by one
// call) or a memory map; WriteAt is called by several goroutines.
// onBytes, if not nil, is told of image bytes done since its last call, zero
// pages included, by one goroutine at a time.
func (im *Image) WriteTo(ctx context.Context, w io.WriterAt, workers int, onBytes func(n int64)) error {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	report := &progress{onBytes: onBytes}
	report.add(im.m.zeroBytes())
	// The kernel lets one writer at a time into a file and has the others spin.
	// They wait here instead, while more goroutines than CPUs decode.
	workers *= writersAWorker
	var turn sync.Mutex
	writers := make([]scatterer, workers)
	for i := range writers {
		writers[i].w, writers[i].turn = w, &turn
		switch w := w.(type) {
		case *os.File:
			writers[i].file = w
		case fileAt:
			writers[i].file, writers[i].base = w.file, w.base
		}
	}
	return im.EachFrame(ctx, workers, func(worker int, parts []Part) error {
		n, err := writers[worker].scatter(parts)
		report.add(n)
		return err
	})
}

// writersAWorker keeps a CPU busy while one goroutine waits to write.
const writersAWorker = 2

// At is the part of a file from byte off on, as a target of WriteTo. Unlike an
// [io.OffsetWriter] it lets neighbouring pages be written by one call.
func At(f *os.File, off int64) io.WriterAt { return fileAt{f, off} }

type fileAt struct {
	file *os.File
	base int64
}

func (a fileAt) WriteAt(p []byte, off int64) (int, error) { return a.file.WriteAt(p, a.base+off) }

// plan sorts the map's runs by frame in two passes, without comparing.
func (im *Image) plan() plan {
	var pl plan
	for i, p := range im.packs {
		for range p.index.Frames {
			pl.packs = append(pl.packs, uint32(i))
		}
	}
	pl.starts = make([]int, len(pl.packs)+1)
	im.eachPiece(func(frame int, _ piece) { pl.starts[frame+1]++ })
	for f := range pl.packs {
		pl.starts[f+1] += pl.starts[f]
	}
	pl.pieces = make([]piece, pl.starts[len(pl.packs)])
	free := append([]int(nil), pl.starts...)
	im.eachPiece(func(frame int, p piece) {
		pl.pieces[free[frame]] = p
		free[frame]++
	})
	return pl
}

// eachPiece cuts the runs at the frames' borders, in image order.
func (im *Image) eachPiece(do func(frame int, p piece)) {
	for _, r := range im.m.Runs {
		pk := &im.packs[r.Pack]
		number := pk.index.frameOf(r.PackPage)
		for r.Pages > 0 {
			f := &pk.index.Frames[number]
			n := min(uint32(r.Pages), f.First+f.Pages-r.PackPage)
			do(pk.firstFrame+number, piece{r.First, r.PackPage, n})
			r.First, r.PackPage, r.Pages = r.First+uint64(n), r.PackPage+n, r.Pages-uint64(n)
			number++
		}
	}
}

// expander decodes frames for one goroutine.
type expander struct {
	im     *Image
	reader *frameReader
	parts  []Part
}

func newExpander(im *Image) (*expander, error) {
	r, err := newFrameReader()
	return &expander{im: im, reader: r}, err
}

// frame checks the pieces of one frame and gives their bytes.
func (e *expander) frame(pack uint32, number int, pieces []piece) ([]Part, error) {
	if len(pieces) == 0 {
		return nil, nil
	}
	p := &e.im.packs[pack]
	f, err := e.reader.read(p, number-p.firstFrame)
	if err != nil {
		return nil, err
	}
	var want pageSet
	for _, pc := range pieces {
		want.add(pc.packPage-f.info.First, pc.pages)
	}
	if err := f.check(want); err != nil {
		return nil, err
	}
	e.parts = e.parts[:0]
	for _, pc := range pieces {
		e.parts = append(e.parts, Part{int64(pc.first) * PageSize, e.bytes(&f, pc)})
	}
	return e.parts, nil
}

// bytes gives a piece's bytes without what lies behind the image.
func (e *expander) bytes(f *openFrame, p piece) []byte {
	n := min(uint64(p.pages)*PageSize, e.im.m.Bytes-p.first*PageSize)
	return f.raw[uint64(p.packPage-f.info.First)*PageSize:][:n]
}

// scatterer writes parts for one goroutine.
type scatterer struct {
	w       io.WriterAt
	file    *os.File    // under w, if there is one
	base    int64       // where w begins in it
	turn    *sync.Mutex // held to write to file
	vectors [][]byte
}

// scatter writes parts to their places, neighbours by one call, and gives the
// bytes written.
func (s *scatterer) scatter(parts []Part) (int64, error) {
	if s.file != nil {
		s.turn.Lock()
		defer s.turn.Unlock()
	}
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
	if s.file != nil && len(vectors) > 1 && len(vectors) <= maxVectors {
		n, err := pwritev(s.file, vectors, s.base+off)
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

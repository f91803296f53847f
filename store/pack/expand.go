package pack

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
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

// WriteTo writes the image's non-zero pages to w: each needed frame is read
// once, in pack order, by workers goroutines (0: one a CPU), and every page is
// compared with its hash before it is written. Zero pages are not written: w
// must be fresh. w may be an *os.File (neighbouring pages are then written by
// one call) or a memory map; WriteAt is called by several goroutines.
// onBytes, if not nil, is told of image bytes done since its last call, zero
// pages included, by one goroutine at a time.
func (im *Image) WriteTo(ctx context.Context, w io.WriterAt, workers int, onBytes func(n int64)) error {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	pl := im.plan()
	report := &progress{onBytes: onBytes}
	_, stored := im.m.Stat()
	report.add(max(0, im.Bytes()-int64(stored)*PageSize))
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			e, err := newExpander(im, w)
			if err != nil {
				return err
			}
			for ctx.Err() == nil {
				f := int(next.Add(1) - 1)
				if f >= len(pl.packs) {
					return nil
				}
				n, err := e.frame(pl.packs[f], f, pl.pieces[pl.starts[f]:pl.starts[f+1]])
				if err != nil {
					return err
				}
				report.add(n)
			}
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}

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

// expander writes frames for one goroutine.
type expander struct {
	im     *Image
	w      io.WriterAt
	file   *os.File // w when it is one
	reader *frameReader
	parts  [][]byte
}

func newExpander(im *Image, w io.WriterAt) (*expander, error) {
	r, err := newFrameReader()
	if err != nil {
		return nil, err
	}
	file, _ := w.(*os.File)
	return &expander{im: im, w: w, file: file, reader: r}, nil
}

// frame checks and scatters the pieces of one frame and gives their bytes.
func (e *expander) frame(pack uint32, number int, pieces []piece) (int64, error) {
	if len(pieces) == 0 {
		return 0, nil
	}
	p := &e.im.packs[pack]
	f, err := e.reader.read(p, number-p.firstFrame)
	if err != nil {
		return 0, err
	}
	var total int64
	for len(pieces) > 0 {
		n, end := 0, pieces[0].first
		e.parts = e.parts[:0]
		for n < len(pieces) && pieces[n].first == end {
			part, err := e.checked(&f, pieces[n])
			if err != nil {
				return 0, err
			}
			e.parts = append(e.parts, part)
			end += uint64(pieces[n].pages)
			n++
		}
		written, err := e.write(int64(pieces[0].first) * PageSize)
		if err != nil {
			return 0, fmt.Errorf("write image at %d: %w", pieces[0].first*PageSize, err)
		}
		total += written
		pieces = pieces[n:]
	}
	return total, nil
}

// checked gives a piece's bytes, verified, without what lies behind the image.
func (e *expander) checked(f *openFrame, p piece) ([]byte, error) {
	first := p.packPage - f.info.First
	if err := f.check(first, p.pages); err != nil {
		return nil, err
	}
	n := min(uint64(p.pages)*PageSize, e.im.m.Bytes-p.first*PageSize)
	return f.raw[uint64(first)*PageSize:][:n], nil
}

// maxVectors is what one pwritev takes (IOV_MAX).
const maxVectors = 1024

// write writes the gathered parts one behind the other from off on.
func (e *expander) write(off int64) (int64, error) {
	start := off
	if e.file != nil && len(e.parts) > 1 && len(e.parts) <= maxVectors {
		n, err := pwritev(e.file, e.parts, off)
		if err != nil {
			return 0, err
		}
		for n > 0 && n >= len(e.parts[0]) {
			n -= len(e.parts[0])
			off += int64(len(e.parts[0]))
			e.parts = e.parts[1:]
			if len(e.parts) == 0 {
				return off - start, nil
			}
		}
		e.parts[0] = e.parts[0][n:]
		off += int64(n)
	}
	for _, part := range e.parts {
		n, err := e.w.WriteAt(part, off)
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

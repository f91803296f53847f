package pack

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
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
	expanders := make([]*expander, workers)
	for i := range expanders {
		var err error
		if expanders[i], err = newExpander(im); err != nil {
			return err
		}
	}
	return im.eachFrame(ctx, workers, func(_ context.Context, worker int, f neededFrame) error {
		e := expanders[worker]
		if err := e.expand(f); err != nil {
			return err
		}
		return visit(worker, e.parts)
	})
}

// neededFrame is a frame and what of it the image has.
type neededFrame struct {
	pack   uint32
	number int // among all frames of the image
	pieces []piece
}

// eachFrame gives do the frames that the image has pages of, in pack order.
func (im *Image) eachFrame(ctx context.Context, workers int, do func(ctx context.Context, worker int, f neededFrame) error) error {
	pl := im.plan()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for worker := range workers {
		group.Go(func() error {
			for ctx.Err() == nil {
				f := int(next.Add(1) - 1)
				if f >= len(pl.packs) {
					return nil
				}
				pieces := pl.pieces[pl.starts[f]:pl.starts[f+1]]
				if len(pieces) == 0 {
					continue
				}
				if err := do(ctx, worker, neededFrame{pl.packs[f], f, pieces}); err != nil {
					return err
				}
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
		for range p.Index.Frames {
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
		number := pk.Index.FrameOf(r.PackPage)
		for r.Pages > 0 {
			f := &pk.Index.Frames[number]
			n := min(uint32(r.Pages), f.First+f.Pages-r.PackPage)
			do(pk.firstFrame+number, piece{r.First, r.PackPage, n})
			r.First, r.PackPage, r.Pages = r.First+uint64(n), r.PackPage+n, r.Pages-uint64(n)
			number++
		}
	}
}

// expander decodes one frame at a time.
type expander struct {
	im     *Image
	reader *FrameReader
	parts  []Part // of the frame that was decoded last
}

func newExpander(im *Image) (*expander, error) {
	r, err := NewFrameReader()
	return &expander{im: im, reader: r}, err
}

// expand decodes a frame and checks its pieces: e.parts are their bytes.
func (e *expander) expand(needed neededFrame) error {
	p := &e.im.packs[needed.pack]
	f, err := e.reader.Read(&p.Opened, needed.number-p.firstFrame)
	if err != nil {
		return err
	}
	var want PageSet
	for _, pc := range needed.pieces {
		want.Add(pc.packPage-f.Info.First, pc.pages)
	}
	if err := f.Check(want); err != nil {
		return err
	}
	e.parts = e.parts[:0]
	for _, pc := range needed.pieces {
		e.parts = append(e.parts, Part{int64(pc.first) * PageSize, e.bytes(&f, pc)})
	}
	return nil
}

// bytes gives a piece's bytes without what lies behind the image.
func (e *expander) bytes(f *OpenFrame, p piece) []byte {
	n := min(uint64(p.pages)*PageSize, e.im.m.Bytes-p.first*PageSize)
	return f.raw[uint64(p.packPage-f.Info.First)*PageSize:][:n]
}

package packer

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/cocoonv2/cocoon/store/pack"
	"golang.org/x/sync/errgroup"
)

// A snapshot of a VM that was captured many times has its pages in the frames
// of many captures, and uses ever fewer pages of each; a restore decodes whole
// frames. So a capture holds itself to a bound: its images need at most half as
// many frames again as if all of their pages were stored anew (readBound). What
// is needed for that is taken from the frames of which least is used; their
// used pages are stored again, and gc removes the old pack once nothing names
// it. docs/adr/0007 has the figures.
const (
	readBoundNum = 3
	readBoundDen = 2
)

// frameUse is a frame that existed before, and how many of its pages are used.
type frameUse struct {
	pack, frame int
	pages       int
}

// packUse is what the images use of one known pack.
type packUse struct {
	pages  []uint64         // a bit for each page
	frames []int            // used pages of each frame
	last   int              // frame of the page that was asked for last
	moved  map[int]location // where a page was stored again
}

// rewrite moves pages out of poorly used frames until the bound holds. No
// worker runs any more. A frame that cannot be read stays as it is: a bound on
// cost is no reason to fail.
func (w *Writer) rewrite() error {
	use, newLive, newFrames := w.use()
	var frames []frameUse
	live := newLive
	for pack, u := range use {
		for frame, pages := range u.frames {
			if pages > 0 {
				frames = append(frames, frameUse{pack, frame, pages})
				live += pages
			}
		}
	}
	poor := w.poorest(frames, live, newFrames)
	if len(poor) == 0 {
		return nil
	}
	if err := w.storeAgain(use, poor); err != nil {
		return err
	}
	for _, iw := range w.images {
		for _, lf := range iw.places.leaves {
			for i, l := range lf {
				if l == 0 || l.isNew() {
					continue
				}
				pack, page := w.table.stored(l)
				if to, ok := use[pack].moved[int(page)]; ok {
					lf[i] = to
				}
			}
		}
	}
	return nil
}

// use counts the distinct pages that the images use: by frame in the packs that
// existed before, and in all in the frames of this Writer.
func (w *Writer) use() (known map[int]*packUse, newLive, newFrames int) {
	known = map[int]*packUse{}
	fresh := make([]uint64, w.frames*pack.FramePages/64)
	for _, iw := range w.images {
		for _, at := range iw.places.sorted() { // neighbours are often of one frame
			for _, l := range iw.places.leaves[at] {
				if l.isNew() {
					n := uint32(l &^ newPage)
					fresh[n/64] |= 1 << (n % 64)
				} else if l != 0 {
					pack, page := w.table.stored(l)
					w.usePage(known, pack, page)
				}
			}
		}
	}
	for f := range w.frames {
		pages := 0
		for _, word := range fresh[f*pack.FramePages/64 : (f+1)*pack.FramePages/64] {
			pages += bits.OnesCount64(word)
		}
		if newLive += pages; pages > 0 {
			newFrames++
		}
	}
	return known, newLive, newFrames
}

func (w *Writer) usePage(known map[int]*packUse, pack int, page uint32) {
	ix := w.table.known[pack].Index
	u := known[pack]
	if u == nil {
		u = &packUse{pages: make([]uint64, (len(ix.Hashes)+63)/64), frames: make([]int, len(ix.Frames)), moved: map[int]location{}}
		known[pack] = u
	}
	if bit := uint64(1) << (page % 64); u.pages[page/64]&bit == 0 {
		u.pages[page/64] |= bit
		if f := ix.Frames[u.last]; page < f.First || page >= f.First+f.Pages {
			u.last = ix.FrameOf(page)
		}
		u.frames[u.last]++
	}
}

// poorest picks the frames to give up, in the order in which they stand.
func (w *Writer) poorest(frames []frameUse, live, newFrames int) []frameUse {
	bound := (live + pack.FramePages - 1) / pack.FramePages * readBoundNum / readBoundDen
	slices.SortFunc(frames, func(a, b frameUse) int {
		return cmp.Or(a.pages-b.pages, a.pack-b.pack, a.frame-b.frame)
	})
	stored := w.frames * pack.FramePages // pages that this Writer has room for
	for _, f := range w.filling {
		if f != nil {
			stored += f.pages - pack.FramePages
		}
	}
	moved, n := 0, 0
	for n < len(frames) {
		added := (stored+moved+pack.FramePages-1)/pack.FramePages - w.frames
		if len(frames)-n+newFrames+added <= bound {
			break
		}
		moved += frames[n].pages
		n++
	}
	poor := frames[:n]
	slices.SortFunc(poor, func(a, b frameUse) int { return cmp.Or(a.pack-b.pack, a.frame-b.frame) })
	return poor
}

// storeAgain reads the used pages of these frames, checks them and stores them
// as new ones.
func (w *Writer) storeAgain(use map[int]*packUse, poor []frameUse) error {
	reader, err := pack.NewFrameReader()
	if err != nil {
		return err
	}
	var compressing errgroup.Group
	compressing.SetLimit(w.threads)
	defer func() { _ = compressing.Wait() }() // compress tells the Writer of errors
	for _, p := range poor {
		k, u := &w.table.known[p.pack], use[p.pack]
		frame, err := reader.Read(&k.Opened, p.frame)
		if err != nil {
			continue
		}
		want := u.within(frame.Info)
		if frame.Check(want) != nil {
			continue
		}
		for i := range int(frame.Info.Pages) {
			if !want.Has(i) {
				continue
			}
			page := int(frame.Info.First) + i
			l, full, err := w.store(frame.Page(i), &k.Index.Hashes[page], classify(frame.Page(i)))
			if err != nil {
				return err
			}
			u.moved[page] = l
			if full != nil {
				compressing.Go(func() error { w.compress(full); return nil })
			}
		}
	}
	return w.err()
}

// within gives the used pages of a frame.
func (u *packUse) within(f pack.Frame) (s pack.PageSet) {
	for i := range f.Pages {
		if page := f.First + i; u.pages[page/64]&(1<<(page%64)) != 0 {
			s.Add(i, 1)
		}
	}
	return s
}

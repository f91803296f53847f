package packer

import (
	"fmt"
	"io"
	"sort"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/opencontainers/go-digest"
)

// Moving takes the pages of packs that are still needed into new packs, so that
// the old ones, of which little is needed, can go: [Live] is what is needed of
// one pack, a [Move] stores it again, and [Move.Rewrite] gives each page map with
// its pages where they are then.

// Move stores the live pages of packs again, as if they were one image: the
// pages of the first pack, then those of the second, and so on.
type Move struct {
	image *ImageWriter
	scan  *pack.Scan
	packs map[digest.Digest]*movedPack
	buf   []byte
	moved *pack.Map // of the image, once the Writer was flushed
}

// movedPack is where the pages of a pack stand in the image.
type movedPack struct {
	live  *pack.Live
	first uint64
}

// NewMove begins an image of w for the live pages of these packs.
func NewMove(w *Writer, order []digest.Digest, live map[digest.Digest]*pack.Live) (*Move, error) {
	scan, err := pack.NewScan()
	if err != nil {
		return nil, err
	}
	mv := &Move{scan: scan, packs: map[digest.Digest]*movedPack{}}
	var pages uint64
	for _, d := range order {
		p := &movedPack{live: live[d], first: pages}
		mv.packs[d] = p
		pages += uint64(p.live.Count())
	}
	mv.image = w.Image(pages*pack.PageSize, nil)
	return mv, nil
}

// at is the number in the image of a page that is live.
func (p *movedPack) at(page uint32) uint64 { return p.first + p.live.Below(page) }

// Take reads the live pages of one of the packs, each compared with its hash.
// copyOf, if not nil, gives a page that the pack has lost, by its hash, or false;
// without it a lost page is failure.Damaged.
func (mv *Move) Take(r io.ReaderAt, d digest.Digest, ix *pack.Index, copyOf func(pack.Hash, []byte) bool) error {
	p := mv.packs[d]
	if err := p.live.Fits(ix); err != nil {
		return err
	}
	for i, f := range ix.Frames {
		mv.buf = mv.buf[:0]
		var first uint32
		for page := f.First; page < f.First+f.Pages; page++ {
			if !p.live.Has(page) {
				continue
			}
			if len(mv.buf) == 0 {
				first = page
				mv.scan.Read(r, ix, i)
			}
			raw := mv.scan.Pages[(page-f.First)*pack.PageSize:][:pack.PageSize]
			if !mv.scan.Sound[page-f.First] && (copyOf == nil || !copyOf(ix.Hashes[page], raw) || pack.Sum(raw) != ix.Hashes[page]) {
				return failure.New(failure.Damaged, "pack %s: page %d is damaged", d, page)
			}
			mv.buf = append(mv.buf, raw...)
		}
		if len(mv.buf) == 0 {
			continue
		}
		if _, err := mv.image.WriteAt(mv.buf, int64(p.at(first)*pack.PageSize)); err != nil {
			return err
		}
	}
	return nil
}

// Finish follows Writer.Flush: from here on Rewrite can be asked.
func (mv *Move) Finish() (err error) {
	mv.moved, err = mv.image.Finish()
	return err
}

// Rewrite gives the same image as a map with its pages where they are now; m is
// left as it is.
func (mv *Move) Rewrite(m *pack.Map) (*pack.Map, error) {
	out := &pack.Map{Bytes: m.Bytes}
	for _, r := range m.Runs {
		d := m.Packs[r.Pack]
		p, moved := mv.packs[d]
		if !moved {
			r.Pack = uint32(out.Number(d))
			out.Add(r)
			continue
		}
		for i := uint64(0); i < r.Pages; {
			page := r.PackPage + uint32(i)
			if !p.live.Has(page) {
				return nil, fmt.Errorf("rewrite page map: page %d of pack %s was not moved", page, d)
			}
			i += mv.addMoved(out, r.First+i, r.Pages-i, p, page)
		}
	}
	return out, nil
}

// addMoved adds what stands in one run of the image of moved pages, or one page
// that turned out to be zero, and says how many pages that was. Neighbours in the
// old pack that are live are neighbours in the image.
func (mv *Move) addMoved(out *pack.Map, first, pages uint64, p *movedPack, page uint32) uint64 {
	at := p.at(page)
	runs := mv.moved.Runs
	i := sort.Search(len(runs), func(i int) bool { return runs[i].First+runs[i].Pages > at })
	if i == len(runs) || runs[i].First > at {
		return 1
	}
	r, skip := runs[i], at-runs[i].First
	n := min(pages, r.Pages-skip)
	for k := uint64(1); k < n; k++ { // what is between live pages of the pack is not in the image
		if !p.live.Has(page + uint32(k)) {
			n = k
		}
	}
	out.Add(pack.Run{First: first, Pages: n, Pack: uint32(out.Number(mv.moved.Packs[r.Pack])), PackPage: r.PackPage + uint32(skip)})
	return n
}

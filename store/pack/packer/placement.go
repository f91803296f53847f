package packer

import "slices"

// placement is the location of every page of one image, 4 bytes a page in
// leaves of 2 MiB of image, so that a large sparse disk costs nothing.
type placement struct {
	leaves map[uint64]*leaf
	lastAt uint64
	last   *leaf
}

const leafPages = 512

type leaf [leafPages]location

func (p *placement) set(page uint64, l location) {
	at := page / leafPages
	if p.last == nil || p.lastAt != at {
		lf := p.leaves[at]
		if lf == nil {
			if l == 0 {
				return
			}
			if p.leaves == nil {
				p.leaves = map[uint64]*leaf{}
			}
			lf = new(leaf)
			p.leaves[at] = lf
		}
		p.last, p.lastAt = lf, at
	}
	p.last[page%leafPages] = l
}

// sorted gives the numbers of the leaves in image order.
func (p *placement) sorted() []uint64 {
	keys := make([]uint64, 0, len(p.leaves))
	for k := range p.leaves {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package pack

import "context"

// Comparison counts the pages of two images by address; a page beyond the
// shorter image counts as zero there.
type Comparison struct {
	Pages   uint64 // of the longer image
	Changed uint64 // differ, i.e. Pages − Changed are equal
}

// compareStride is how many pages are compared between two looks at ctx.
const compareStride = 1 << 18

// Compare tells how far two images differ. It reads their maps and the packs'
// indexes only, never a page. A nil image is one without pages.
func Compare(ctx context.Context, a, b *Image) (Comparison, error) {
	c := Comparison{Pages: max(a.pages(), b.pages())}
	var atA, atB Cursor
	for page := range c.Pages {
		if page%compareStride == 0 && ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		if ha, hb := a.identity(page, &atA), b.identity(page, &atB); ha != hb {
			c.Changed++
		}
	}
	return c, nil
}

// samePages bounds the work of Same, pages: 4 TiB.
const samePages = 1 << 30

// Same says whether two images have the same pages, by the hashes of those that
// are not zero. Images of which more would have to be looked at than can be are
// not the same.
func Same(ctx context.Context, a, b *Image) (bool, error) {
	_, stored := a.m.Stat()
	if _, other := b.m.Stat(); stored != other || a.m.Bytes != b.m.Bytes || stored > samePages {
		return false, nil
	}
	var atA, atB Cursor
	var looked uint64
	for _, r := range a.m.Runs {
		for page := r.First; page < r.First+r.Pages; page++ {
			if looked++; looked%compareStride == 0 && ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			if a.identity(page, &atA) != b.identity(page, &atB) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (im *Image) pages() uint64 {
	if im == nil {
		return 0
	}
	return PagesOf(im.m.Bytes)
}

// identity is the page's hash; that of a zero page is the zero Hash here.
func (im *Image) identity(page uint64, at *Cursor) Hash {
	if im == nil {
		return Hash{}
	}
	h, _, _ := im.HashAt(page, at)
	if h == nil {
		return Hash{}
	}
	return *h
}

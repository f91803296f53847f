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
	var atA, atB cursor
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

func (im *Image) pages() uint64 {
	if im == nil {
		return 0
	}
	return pagesOf(im.m.Bytes)
}

// identity is the page's hash; that of a zero page is the zero Hash here.
func (im *Image) identity(page uint64, at *cursor) Hash {
	if im == nil {
		return Hash{}
	}
	h, _, _ := im.hashAt(page, at)
	if h == nil {
		return Hash{}
	}
	return *h
}

package packer

import (
	"io"
	"slices"

	"github.com/cocoonv2/cocoon/store/pack"
)

// PrintBytes is the length of a fingerprint.
const PrintBytes = 16

// Print is a fingerprint of a page. No content can be made for which another page
// has the same one, by anybody who does not know the key that it was made with.
type Print = [PrintBytes]byte

// Fingerprinter makes the print of a page that has this number.
type Fingerprinter interface {
	Make(p *Print, page []byte, number uint64)
}

// Fingerprints tell which pages of an image are still what its parent holds at
// the same address, for a third of what hashing them costs; the others are
// hashed. Both files have a [Print] for each page of their image, that of page n at
// byte n*[PrintBytes]; what stands there for a zero page means nothing.
type Fingerprints struct {
	Key Fingerprinter
	// Parent has the prints of the parent's pages, made under Key when those pages
	// were stored. Nil, or where it cannot be read: they are not known.
	Parent io.ReaderAt
	// Own takes those of the image. Its errors are its own matter: an image
	// is whole without prints.
	Own io.WriterAt
}

// prints are those of the pages of a batch.
type prints [pack.FramePages * PrintBytes]byte

func (p *prints) of(i int) *Print {
	return (*Print)(p[i*PrintBytes:])
}

// Fingerprint has the image look for unchanged pages by f. It must be called
// before any page is given.
func (iw *ImageWriter) Fingerprint(f Fingerprints) { iw.prints = &f }

// look is one look at the pages of a job: which of them need no hash.
type look struct {
	iw    *ImageWriter
	pages []uint64
	f     *found
	known bool // f.before holds the parent's prints
	at    pack.Cursor
}

// newLook reads the prints of the parent's pages.
func newLook(j *job, f *found) *look {
	l := &look{iw: j.iw, pages: j.batch.pages, f: f}
	if p := j.iw.prints; p != nil && p.Parent != nil && j.iw.parent != nil {
		l.known = true
		eachStretch(l.pages, func(from, to int) {
			part := f.before[from*PrintBytes : to*PrintBytes]
			if n, err := p.Parent.ReadAt(part, int64(l.pages[from])*PrintBytes); err != nil {
				clear(part[n:])
			}
		})
	}
	return l
}

// page looks at page i of the job and tells whether its bytes are needed: it is
// not zero, nor, by its print, what the parent holds there.
func (l *look) page(i int, data []byte) bool {
	f := l.f
	f.parent[i] = parentPage{}
	if f.zero[i] = pack.IsZero(data); f.zero[i] {
		*f.prints.of(i) = Print{}
		return false
	}
	if !l.known {
		return true
	}
	own := f.prints.of(i)
	l.iw.prints.Key.Make(own, data, l.pages[i])
	if *own == *f.before.of(i) {
		f.parent[i], _ = l.iw.parentAt(l.pages[i], &l.at)
	}
	return !f.parent[i].same
}

// parentAt is the parent's page at an address and its hash, if there is one and
// it can be reused.
func (iw *ImageWriter) parentAt(page uint64, at *pack.Cursor) (parentPage, *pack.Hash) {
	if iw.parent == nil {
		return parentPage{}, nil
	}
	h, pack, packPage := iw.parent.HashAt(page, at)
	if h == nil || iw.parentPacks[pack] == unknownPack {
		return parentPage{}, nil
	}
	return parentPage{true, pack, packPage}, h
}

// makePrints makes the prints of pages whose bytes are in b now: what a look at
// the source saw may be older.
func (iw *ImageWriter) makePrints(b *batch, numbers []int, f *found) {
	if iw.prints == nil {
		return
	}
	for _, i := range numbers {
		iw.prints.Key.Make(f.prints.of(i), b.page(i), b.pages[i])
	}
}

// keepPrints gives the prints of placed pages away. It is called in the order of
// turns, so of a page that was written twice the later print stays.
func (iw *ImageWriter) keepPrints(b *batch, f *found) {
	if iw.prints == nil || !slices.Contains(f.zero[:len(b.pages)], false) {
		return // where all is zero the file has a hole
	}
	eachStretch(b.pages, func(from, to int) {
		_, _ = iw.prints.Own.WriteAt(f.prints[from*PrintBytes:to*PrintBytes], int64(b.pages[from])*PrintBytes)
	})
}

// eachStretch calls do for the stretches of pages that follow one another.
func eachStretch(pages []uint64, do func(from, to int)) {
	for from := 0; from < len(pages); {
		to := from + 1
		for to < len(pages) && pages[to] == pages[to-1]+1 {
			to++
		}
		do(from, to)
		from = to
	}
}

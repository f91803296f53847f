package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sort"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/store/keyring"
)

// Source opens packs by digest for reading and gives their size in bytes, and
// has the keys of encrypted ones.
type Source interface {
	OpenPack(ctx context.Context, d digest.Digest) (ReaderAtCloser, int64, error)
	keyring.Keys
}

// ReaderAtCloser is an open pack; ReadAt is called by several goroutines.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Image is an opened Map: the packs it names are open and their indexes read.
// It is safe for concurrent use; nothing may use it after Close.
type Image struct {
	m     *Map
	packs []imagePack
	cache frameCache
}

// imagePack is a pack of an image.
type imagePack struct {
	Opened
	firstFrame int // frames of the packs before it
}

// Opened is an open pack with its index. File may be read until Close of what
// opened it.
type Opened struct {
	Digest digest.Digest
	File   ReaderAtCloser
	Index  *Index
}

// OpenImage opens the packs that a map names and checks that each has the
// pages asked of it. m must not be changed afterwards. Errors of src keep
// their class; a pack or map that is not intact is failure.Damaged.
func OpenImage(ctx context.Context, m *Map, src Source) (*Image, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	im := &Image{m: m}
	if err := im.openPacks(ctx, src); err != nil {
		return nil, errors.Join(err, im.Close())
	}
	frames := 0
	for i := range im.packs {
		im.packs[i].firstFrame = frames
		frames += len(im.packs[i].Index.Frames)
	}
	for _, r := range m.Runs {
		if p := im.packs[r.Pack]; uint64(r.PackPage)+r.Pages > uint64(len(p.Index.Hashes)) {
			err := damaged("page map names page %d of pack %s, which has %d", uint64(r.PackPage)+r.Pages-1, p.Digest, len(p.Index.Hashes))
			return nil, errors.Join(err, im.Close())
		}
	}
	return im, nil
}

// openPacks reads the packs' indexes side by side: that is most of what opening
// an image takes.
func (im *Image) openPacks(ctx context.Context, src Source) error {
	im.packs = make([]imagePack, len(im.m.Packs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, d := range im.m.Packs {
		g.Go(func() (err error) {
			im.packs[i].Opened, err = OpenPack(gctx, d, src)
			return err
		})
	}
	return g.Wait()
}

// OpenPack opens a pack and reads its index.
func OpenPack(ctx context.Context, d digest.Digest, src Source) (Opened, error) {
	if err := ctx.Err(); err != nil {
		return Opened{}, context.Cause(ctx)
	}
	file, size, err := src.OpenPack(ctx, d)
	if err != nil {
		return Opened{}, fmt.Errorf("open pack %s: %w", d, err)
	}
	ix, err := ReadIndex(file, size, src)
	if err != nil {
		return Opened{}, errors.Join(fmt.Errorf("pack %s: %w", d, err), file.Close())
	}
	return Opened{Digest: d, File: file, Index: ix}, nil
}

// Opened are the image's packs, open as long as it is.
func (im *Image) Opened() (packs []Opened) {
	for _, p := range im.packs {
		packs = append(packs, p.Opened)
	}
	return packs
}

// Bytes is the image's length.
func (im *Image) Bytes() int64 { return int64(im.m.Bytes) }

// Packs are the digests of the packs that hold the image's pages.
func (im *Image) Packs() []digest.Digest { return im.m.Packs }

// Close closes the packs.
func (im *Image) Close() error {
	var err error
	for _, p := range im.packs {
		if p.File != nil {
			err = errors.Join(err, p.File.Close())
		}
	}
	return err
}

// PageHash gives the hash of a page of the image; false for zero pages and
// pages beyond the image.
func (im *Image) PageHash(page uint64) (Hash, bool) {
	var at Cursor
	h, _, _ := im.HashAt(page, &at)
	if h == nil {
		return Hash{}, false
	}
	return *h, true
}

// Cursor remembers a run so that neighbouring pages are found without search.
type Cursor struct{ run int }

// HashAt gives a page's hash and place; nil for a zero page.
func (im *Image) HashAt(page uint64, at *Cursor) (h *Hash, pack, packPage uint32) {
	r := im.runAt(page, at)
	if r == nil || r.First > page {
		return nil, 0, 0
	}
	packPage = r.PackPage + uint32(page-r.First)
	return &im.packs[r.Pack].Index.Hashes[packPage], r.Pack, packPage
}

// runAt gives the first run that ends behind page, or nil.
func (im *Image) runAt(page uint64, at *Cursor) *Run {
	runs := im.m.Runs
	endsBehind := func(i int) bool { return runs[i].First+runs[i].Pages > page }
	for i := at.run; i < len(runs) && i < at.run+4; i++ {
		if endsBehind(i) && (i == 0 || !endsBehind(i-1)) {
			at.run = i
			return &runs[i]
		}
	}
	at.run = sort.Search(len(runs), endsBehind)
	if at.run == len(runs) {
		return nil
	}
	return &runs[at.run]
}

// ReadAt reads any part of the image; every page that it touches is compared
// with its hash. It returns io.EOF at the image's end like os.File does.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read image: negative offset %d", off)
	}
	if off >= im.Bytes() {
		return 0, io.EOF
	}
	short := int64(len(p)) > im.Bytes()-off
	if short {
		p = p[:im.Bytes()-off]
	}
	var at Cursor
	for done := 0; done < len(p); {
		n, err := im.readSome(p[done:], uint64(off)+uint64(done), &at)
		if err != nil {
			return done, err
		}
		done += n
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// readSome reads up to the next change of run or frame.
func (im *Image) readSome(p []byte, off uint64, at *Cursor) (int, error) {
	page, within := off/PageSize, off%PageSize
	r := im.runAt(page, at)
	if r == nil || r.First > page {
		n := uint64(len(p))
		if r != nil {
			n = min(n, r.First*PageSize-off)
		}
		clear(p[:n])
		return int(n), nil
	}
	packPage := r.PackPage + uint32(page-r.First)
	ix := im.packs[r.Pack].Index
	frame := ix.FrameOf(packPage)
	pages := min(r.First+r.Pages-page, uint64(ix.Frames[frame].First+ix.Frames[frame].Pages-packPage))
	n := min(uint64(len(p)), pages*PageSize-within)
	return int(n), im.readFrame(p[:n], r.Pack, frame, packPage, within)
}

package packer

import (
	"fmt"
	"io"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// batch is up to one frame's worth of pages of one image on their way in.
// pages[i] is the image's page number of data[i*PageSize:].
type batch struct {
	pages []uint64
	data  [frameRawBytes]byte
}

func (b *batch) page(i int) []byte {
	return b.data[i*pack.PageSize : (i+1)*pack.PageSize : (i+1)*pack.PageSize]
}

// job is a batch with its place in the order of pages. Work that depends on no
// other page (reading, zero test, hash) runs in any order; then a job waits for
// the turn before it, places its pages, and passes the turn on.
type job struct {
	iw     *ImageWriter
	batch  *batch
	read   io.ReaderAt // nil when batch.data is filled already
	window *window     // read's part, mapped; nil: it must be read
	within int64       // where the part begins in window
	offset int64
	length int
	done   func(error) // called once when the pages are placed; may be nil
	before <-chan struct{}
	turn   chan<- struct{}
}

// found is what the independent part of a job learns about its pages.
type found struct {
	zero   [pack.FramePages]bool
	class  [pack.FramePages]class
	hash   [pack.FramePages]pack.Hash
	parent [pack.FramePages]parentPage
	prints prints
	before prints // of the parent's pages, where they are known
}

// parentPage is the parent's page at the same address when it is the same.
type parentPage struct {
	same     bool
	pack     uint32 // number in the parent's map
	packPage uint32
}

func (w *Writer) work() {
	defer w.running.Done()
	f := new(found)
	for j := range w.jobs {
		w.run(j, f)
	}
}

// run does one job; the frames that it filled are compressed after the turn has
// been passed on, while other workers go on.
func (w *Writer) run(j *job, f *found) {
	err := w.err()
	if err == nil {
		err = j.examine(f)
	}
	j.window.leave()
	<-j.before
	var full []*frame
	if err == nil {
		full, err = w.place(j, f)
	}
	if err != nil {
		w.fail(err)
	}
	close(j.turn)
	w.batches <- j.batch
	if j.done != nil {
		j.done(err)
	}
	for _, fr := range full {
		w.compress(fr)
	}
}

// examine reads the pages if need be, and finds out which of them are zero, which
// are the parent's at the same address, and what the others' hashes are.
func (j *job) examine(f *found) error {
	b := j.batch
	if err := j.fill(f); err != nil {
		return err
	}
	var at pack.Cursor
	var used [pack.FramePages]int // pages whose bytes are needed
	n := 0
	for i := range b.pages {
		if !f.zero[i] && !f.parent[i].same {
			used[n] = i
			n++
		}
	}
	j.iw.makePrints(b, used[:n], f)
	pack.SumEach(used[:n], b.page, func(i int, h pack.Hash) { f.hash[i] = h })
	for _, i := range used[:n] {
		if p, h := j.iw.parentAt(b.pages[i], &at); p.same && *h == f.hash[i] {
			f.parent[i] = p
			continue
		}
		f.class[i] = classify(b.page(i))
	}
	return nil
}

// fill brings the bytes of the pages that need a hash, and says which are zero or
// known to be the parent's. The last page of an image is padded with zeros.
func (j *job) fill(f *found) error {
	b := j.batch
	if j.read != nil {
		first := uint64(j.offset) / pack.PageSize
		for i := range pack.PagesOf(uint64(j.length)) {
			b.pages = append(b.pages, first+i)
		}
		if j.window != nil {
			return j.window.fill(b, j.within, j.length, newLook(j, f))
		}
		if err := j.readAll(); err != nil {
			return err
		}
	}
	l := newLook(j, f)
	for i := range b.pages {
		l.page(i, b.page(i))
	}
	return nil
}

// readAll reads the job's part of the source.
func (j *job) readAll() error {
	b := j.batch
	n, err := j.read.ReadAt(b.data[:j.length], j.offset)
	if n < j.length {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read image at byte %d: %w", j.offset+int64(n), err)
	}
	clear(b.data[j.length : len(b.pages)*pack.PageSize])
	return nil
}

// place finds or makes the place of each page of the job whose turn it is and
// gives the frames that became full: a batch fills at most one of each class.
func (w *Writer) place(j *job, f *found) (full []*frame, err error) {
	w.append.Lock()
	defer w.append.Unlock()
	for i, page := range j.batch.pages {
		var l location
		switch {
		case f.zero[i]:
		case f.parent[i].same:
			l = w.table.storedAt(j.iw.parentPacks[f.parent[i].pack], f.parent[i].packPage)
		default:
			if l = w.table.find(&f.hash[i]); l != 0 {
				break
			}
			var filled *frame
			if l, filled, err = w.store(j.batch.page(i), &f.hash[i], f.class[i]); err != nil {
				return full, err
			}
			if filled != nil {
				full = append(full, filled)
			}
		}
		j.iw.places.set(page, l)
	}
	j.iw.keepPrints(j.batch, f)
	return full, nil
}

// store appends a page to the open frame of its class, and gives the frame back
// when it is full. w.append is held.
func (w *Writer) store(data []byte, h *pack.Hash, c class) (l location, full *frame, err error) {
	f := w.filling[c]
	if f == nil {
		if w.frames >= maxNewPages/pack.FramePages {
			return 0, nil, failure.New(failure.Incompatible, "write image: more than %d new pages", maxNewPages)
		}
		if f, err = w.out.freeFrame(); err != nil {
			return 0, nil, w.err()
		}
		f.number, f.pages, f.hashes = w.frames, 0, new([pack.FramePages]pack.Hash)
		w.frames++
		w.filling[c] = f
		w.table.fresh = append(w.table.fresh, f.hashes)
	}
	l = newPage | location(f.number*pack.FramePages+f.pages)
	copy(f.data[f.pages*pack.PageSize:], data)
	f.hashes[f.pages] = *h
	f.pages++
	w.table.insert(h, l)
	if f.pages == pack.FramePages {
		full = w.endFrame(c)
	}
	return l, full, nil
}

// endFrame gives the open frame of a class, if there is one, its place in the
// order of writing. w.append is held.
func (w *Writer) endFrame(c class) *frame {
	f := w.filling[c]
	if f != nil {
		f.order = w.ended
		w.ended++
		w.filling[c] = nil
	}
	return f
}

// compress makes a frame's stored form and delivers it.
func (w *Writer) compress(f *frame) {
	f.stored = w.encoder.EncodeAll(f.data[:f.pages*pack.PageSize], f.stored[:0])
	if err := w.out.deliver(f); err != nil {
		w.fail(err)
	}
}

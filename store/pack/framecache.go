package pack

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
)

// cachedFrames is how many decoded frames (1 MiB each) ReadAt keeps.
const cachedFrames = 16

// frameCache keeps the frames that ReadAt decoded last.
type frameCache struct {
	mu     sync.Mutex
	frames []*cachedFrame // last used first
}

type cachedFrame struct {
	key    int // number among all frames of the image
	load   sync.Once
	mu     sync.Mutex // guards frame.checked
	frame  OpenFrame
	failed error
}

// readFrame copies part of one frame, from byte within of a page on.
func (im *Image) readFrame(p []byte, pack uint32, number int, packPage uint32, within uint64) error {
	key := im.packs[pack].firstFrame + number
	c := im.cache.get(key)
	c.load.Do(func() {
		var fr *FrameReader
		if fr, c.failed = NewFrameReader(); c.failed == nil {
			c.frame, c.failed = fr.Read(&im.packs[pack].Opened, number)
		}
	})
	if c.failed != nil {
		im.cache.drop(c) // the next read may succeed
		return c.failed
	}
	first := packPage - c.frame.Info.First
	c.mu.Lock()
	defer c.mu.Unlock()
	var want PageSet
	want.Add(first, uint32(PagesOf(within+uint64(len(p)))))
	if err := c.frame.Check(want); err != nil {
		return err
	}
	copy(p, c.frame.raw[uint64(first)*PageSize+within:])
	return nil
}

func (fc *frameCache) get(key int) *cachedFrame {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	i := slices.IndexFunc(fc.frames, func(c *cachedFrame) bool { return c.key == key })
	var c *cachedFrame
	if i >= 0 {
		c = fc.frames[i]
		fc.frames = slices.Delete(fc.frames, i, i+1)
	} else {
		c = &cachedFrame{key: key}
		fc.frames = fc.frames[:min(len(fc.frames), cachedFrames-1)]
	}
	fc.frames = slices.Insert(fc.frames, 0, c)
	return c
}

func (fc *frameCache) drop(c *cachedFrame) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	fc.frames = slices.DeleteFunc(fc.frames, func(other *cachedFrame) bool { return other == c })
}

// FrameReader reads and decodes frames into buffers that it reuses.
type FrameReader struct {
	decoder *frameDecoder
	stored  []byte
	raw     []byte
}

// NewFrameReader makes one.
func NewFrameReader() (*FrameReader, error) {
	d, err := newFrameDecoder()
	if err != nil {
		return nil, err
	}
	return &FrameReader{decoder: d}, nil
}

// OpenFrame is a decoded frame; a page of it may be used after check.
type OpenFrame struct {
	pack    *Opened
	Info    Frame
	raw     []byte
	checked PageSet
}

// Read decodes one frame; its pages are not yet checked. The result is valid
// until the next read.
func (fr *FrameReader) Read(p *Opened, number int) (OpenFrame, error) {
	f := p.Index.Frames[number]
	fr.stored = slices.Grow(fr.stored[:0], int(f.Bytes))[:f.Bytes]
	fr.raw = slices.Grow(fr.raw[:0], int(f.Pages)*PageSize+decodeSlack)[:f.Pages*PageSize]
	if err := readFull(p.File, fr.stored, f.Offset); err != nil {
		return OpenFrame{}, fmt.Errorf("read frame %d of pack %s: %w", number, p.Digest, err)
	}
	compressed, err := p.Index.open(number, fr.stored)
	if err == nil {
		err = fr.decoder.decode(compressed, fr.raw)
	}
	if err != nil {
		return OpenFrame{}, damaged("decode frame %d of pack %s: %w", number, p.Digest, err)
	}
	return OpenFrame{pack: p, Info: f, raw: fr.raw}, nil
}

// PageSet is a set of pages of one frame.
type PageSet [FramePages / 64]uint64

// Add puts pages in.
func (s *PageSet) Add(first, pages uint32) {
	for i := first; i < first+pages; i++ {
		s[i/64] |= 1 << (i % 64)
	}
}

// Has says whether a page is in.
func (s *PageSet) Has(page int) bool { return s[page/64]&(1<<(page%64)) != 0 }

// Check compares the pages of want with their hashes, each page once.
func (f *OpenFrame) Check(want PageSet) error {
	var numbers [FramePages]int
	n := 0
	for word := range want {
		for left := want[word] &^ f.checked[word]; left != 0; left &= left - 1 {
			numbers[n] = 64*word + bits.TrailingZeros64(left)
			n++
		}
	}
	hashes := f.pack.Index.Hashes[f.Info.First:]
	differs := -1
	SumEach(numbers[:n], f.Page, func(i int, h Hash) {
		if h != hashes[i] && differs < 0 {
			differs = i
		}
	})
	if differs >= 0 {
		return damaged("page %d of pack %s differs from its hash", f.Info.First+uint32(differs), f.pack.Digest)
	}
	for word := range want {
		f.checked[word] |= want[word]
	}
	return nil
}

// Page is the i-th page.
func (f *OpenFrame) Page(i int) []byte { return f.raw[i*PageSize : (i+1)*PageSize] }

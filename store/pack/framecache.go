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
	frame  openFrame
	failed error
}

// readFrame copies part of one frame, from byte within of a page on.
func (im *Image) readFrame(p []byte, pack uint32, number int, packPage uint32, within uint64) error {
	key := im.packs[pack].firstFrame + number
	c := im.cache.get(key)
	c.load.Do(func() {
		var fr *frameReader
		if fr, c.failed = newFrameReader(); c.failed == nil {
			c.frame, c.failed = fr.read(&im.packs[pack], number)
		}
	})
	if c.failed != nil {
		im.cache.drop(c) // the next read may succeed
		return c.failed
	}
	first := packPage - c.frame.info.First
	c.mu.Lock()
	defer c.mu.Unlock()
	var want pageSet
	want.add(first, uint32(pagesOf(within+uint64(len(p)))))
	if err := c.frame.check(want); err != nil {
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

// frameReader reads and decodes frames into buffers that it reuses.
type frameReader struct {
	decoder *frameDecoder
	stored  []byte
	raw     []byte
}

func newFrameReader() (*frameReader, error) {
	d, err := newFrameDecoder()
	if err != nil {
		return nil, err
	}
	return &frameReader{decoder: d}, nil
}

// openFrame is a decoded frame; a page of it may be used after check.
type openFrame struct {
	pack    *imagePack
	info    Frame
	raw     []byte
	checked pageSet
}

// read decodes one frame; its pages are not yet checked. The result is valid
// until the next read.
func (fr *frameReader) read(p *imagePack, number int) (openFrame, error) {
	f := p.index.Frames[number]
	fr.stored = slices.Grow(fr.stored[:0], int(f.Bytes))[:f.Bytes]
	fr.raw = slices.Grow(fr.raw[:0], int(f.Pages)*PageSize+decodeSlack)[:f.Pages*PageSize]
	if err := readFull(p.file, fr.stored, f.Offset); err != nil {
		return openFrame{}, fmt.Errorf("read frame %d of pack %s: %w", number, p.digest, err)
	}
	compressed, err := p.index.open(number, fr.stored)
	if err == nil {
		err = fr.decoder.decode(compressed, fr.raw)
	}
	if err != nil {
		return openFrame{}, damaged("decode frame %d of pack %s: %w", number, p.digest, err)
	}
	return openFrame{pack: p, info: f, raw: fr.raw}, nil
}

// pageSet is a set of pages of one frame.
type pageSet [FramePages / 64]uint64

func (s *pageSet) add(first, pages uint32) {
	for i := first; i < first+pages; i++ {
		s[i/64] |= 1 << (i % 64)
	}
}

func (s *pageSet) has(page int) bool { return s[page/64]&(1<<(page%64)) != 0 }

// check compares the pages of want with their hashes, each page once.
func (f *openFrame) check(want pageSet) error {
	var numbers [FramePages]int
	n := 0
	for word := range want {
		for left := want[word] &^ f.checked[word]; left != 0; left &= left - 1 {
			numbers[n] = 64*word + bits.TrailingZeros64(left)
			n++
		}
	}
	hashes := f.pack.index.Hashes[f.info.First:]
	differs := -1
	sumEach(numbers[:n], f.page, func(i int, h Hash) {
		if h != hashes[i] && differs < 0 {
			differs = i
		}
	})
	if differs >= 0 {
		return damaged("page %d of pack %s differs from its hash", f.info.First+uint32(differs), f.pack.digest)
	}
	for word := range want {
		f.checked[word] |= want[word]
	}
	return nil
}

func (f *openFrame) page(i int) []byte { return f.raw[i*PageSize : (i+1)*PageSize] }

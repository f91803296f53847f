// Package ramgen makes images that look like the RAM of a guest, for tests and
// benchmarks: 60 % of the pages are zero and lie in runs; the others hold text,
// programs, heaps, records and random bytes, and compress as those of Linux
// guests do ([New]) or worse ([NewHard]); some pages occur many times.
//
// An image is a function of its length and seed: every page can be made alone,
// nothing of the image's size is kept but nine bytes a page. [Image.Mutate]
// gives the image as it stands some time later, [Image.Sibling] that of another
// guest of the same operating system image.
package ramgen

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// PageSize is the bytes of a page.
const PageSize = 4096

// kind is what a page holds.
type kind uint8

const (
	zero kind = iota
	text
	pointers
	code
	records
	noise
	shared // one of sharedPages contents
)

const sharedPages = 64

// Image is one state of a simulated RAM. It implements io.ReaderAt and is safe
// for concurrent reading.
type Image struct {
	content *content
	bytes   int64
	seed    uint64
	kinds   []kind
	changed []uint32 // how often each page was changed
	origin  []uint32 // page of the image it was copied from + 1; 0: its own
	source  uint64   // seed of that image
}

// New makes the image of a length in bytes (a last short page is allowed).
func New(bytes int64, seed uint64) *Image { return newImage(bytes, seed, &linux) }

// NewHard makes one whose pages compress worse than those of Linux guests do:
// half of what is not zero remains, in many short repeats.
func NewHard(bytes int64, seed uint64) *Image { return newImage(bytes, seed, &hard) }

func newImage(bytes int64, seed uint64, c *content) *Image {
	pages := (bytes + PageSize - 1) / PageSize
	im := &Image{content: c, bytes: bytes, seed: seed, kinds: make([]kind, pages), changed: make([]uint32, pages), origin: make([]uint32, pages)}
	rng := rand.New(rand.NewPCG(seed, 1))
	for at := 0; at < len(im.kinds); {
		used := min(1+rng.IntN(128), len(im.kinds)-at)
		for end := at + used; at < end; {
			k, run := c.draw(rng), 1
			if c.run > 1 {
				run += rng.IntN(c.run)
			}
			for ; run > 0 && at < end; run, at = run-1, at+1 {
				im.kinds[at] = k
			}
		}
		at += min(1+rng.IntN(194), len(im.kinds)-at) // zero: three pages in five
	}
	return im
}

// content is what the pages that are not zero hold.
type content struct {
	shares []share // of 100
	run    int     // most pages of one kind that are drawn at once
	fill   func(k kind, p []byte, s *splitmix)
}

type share struct {
	kind    kind
	percent int
}

// draw picks the content of a page that is not zero.
func (c *content) draw(rng *rand.Rand) kind {
	n := rng.IntN(100)
	for _, s := range c.shares {
		if n -= s.percent; n < 0 {
			return s.kind
		}
	}
	return noise
}

// Mutate gives a copy in which a fraction (0 to 1) of all pages differs, in
// short runs, nine in ten of them pages that were not zero.
func (im *Image) Mutate(fraction float64, seed uint64) *Image {
	next := &Image{
		content: im.content, bytes: im.bytes, seed: im.seed, source: im.source,
		kinds: slices.Clone(im.kinds), changed: slices.Clone(im.changed), origin: slices.Clone(im.origin),
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	left := int(fraction * float64(len(im.kinds)))
	for tries := 0; left > 0 && tries < 100*len(im.kinds); tries++ {
		at := rng.IntN(len(im.kinds))
		for n := 1 + rng.IntN(8); n > 0 && left > 0 && at < len(im.kinds); n, at = n-1, at+1 {
			if next.changed[at] != im.changed[at] || im.kinds[at] == zero && rng.IntN(10) != 0 {
				continue
			}
			next.changed[at]++
			next.origin[at] = 0
			if k := next.kinds[at]; k == zero || k == shared {
				next.kinds[at] = pointers
			}
			left--
		}
	}
	return next
}

// siblingShare is how many of a sibling's pages that are not zero are the first
// image's: what two guests of one Linux image were seen to share at 4 KiB.
const siblingShare = 0.6

// Sibling gives the RAM of another guest of the same operating system image, of
// the same length: a share of its pages stands in im too, in runs of up to 32
// (files read into the page cache), at other addresses. im must be fresh: made
// by New, not mutated.
func (im *Image) Sibling(seed uint64) *Image {
	next := newImage(im.bytes, seed, im.content)
	next.source = im.seed
	rng := rand.New(rand.NewPCG(seed, 3))
	for at := 0; at < len(next.kinds); {
		run := min(1+rng.IntN(32), len(next.kinds)-at)
		from := rng.IntN(len(im.kinds) - run + 1)
		share := rng.Float64() < siblingShare
		for i := range run {
			// Where the files' run meets a zero page the nearest one behind serves.
			for share && next.kinds[at+i] != zero && im.kinds[from] == zero {
				from = (from + 1) % len(im.kinds)
			}
			if share && next.kinds[at+i] != zero {
				next.kinds[at+i], next.origin[at+i] = im.kinds[from], uint32(from)+1
				from = (from + 1) % len(im.kinds)
			}
		}
		at += run
	}
	return next
}

// Bytes is the image's length.
func (im *Image) Bytes() int64 { return im.bytes }

// ZeroPages counts the pages that are zero.
func (im *Image) ZeroPages() (n int) {
	for _, k := range im.kinds {
		if k == zero {
			n++
		}
	}
	return n
}

// Page fills p, of PageSize bytes, with a page's content.
func (im *Image) Page(p []byte, page int64) {
	k := im.kinds[page]
	if k == zero {
		clear(p)
		return
	}
	state := im.seed*0x9E3779B97F4A7C15 ^ uint64(page)<<24 ^ uint64(im.changed[page])
	if from := im.origin[page]; from != 0 {
		page = int64(from - 1)
		state = im.source*0x9E3779B97F4A7C15 ^ uint64(page)<<24
	}
	if k == shared {
		state = uint64(page) * 0x9E3779B97F4A7C15 >> 32 % sharedPages
	}
	im.content.fill(k, p, &splitmix{state})
}

// ReadAt implements io.ReaderAt.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	var page [PageSize]byte
	done := 0
	for done < len(p) && off+int64(done) < im.bytes {
		at := off + int64(done)
		im.Page(page[:], at/PageSize)
		n := copy(p[done:], page[at%PageSize:])
		done += int(min(int64(n), im.bytes-at))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// WriteFile writes the whole image; zero pages become holes when sparse.
func (im *Image) WriteFile(path string, sparse bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write RAM image: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(im.bytes); err != nil {
		return fmt.Errorf("write RAM image: %w", err)
	}
	buf := make([]byte, 256*PageSize)
	for off := int64(0); off < im.bytes; {
		n := min(int64(len(buf)), im.bytes-off)
		if sparse {
			n = min(PageSize, n)
		}
		if !sparse || im.kinds[off/PageSize] != zero {
			if _, err := im.ReadAt(buf[:n], off); err != nil {
				return fmt.Errorf("make RAM image: %w", err)
			}
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return fmt.Errorf("write RAM image: %w", err)
			}
		}
		off += n
	}
	return f.Close()
}

// splitmix is a small deterministic generator.
type splitmix struct{ state uint64 }

func (s *splitmix) next() uint64 {
	s.state += 0x9E3779B97F4A7C15
	z := s.state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

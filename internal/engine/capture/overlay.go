package capture

import (
	"fmt"
	"math/bits"
	"os"
	"sync"

	"github.com/cocoonv2/cocoon/store/pack"
)

// overlay keeps the newest contents of pages that were already packed and came
// again: at their address in an unnamed sparse file, so that a page that comes
// ten times is packed once more, not ten times, and taking one is just a copy
// into the page cache.
type overlay struct {
	file  *os.File
	bytes int64

	mu    sync.Mutex // guards pages
	pages []uint64   // a bit a page
}

// newOverlay makes an overlay over bytes of pages, its file in dir.
func newOverlay(dir string, bytes uint64) (*overlay, error) {
	f, err := os.CreateTemp(dir, "overlay-")
	if err != nil {
		return nil, fmt.Errorf("keep later rounds: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("keep later rounds: %w", err)
	}
	pages := (bytes + pack.PageSize - 1) / pack.PageSize
	return &overlay{file: f, bytes: int64(bytes), pages: make([]uint64, (pages+63)/64)}, nil
}

// put keeps whole pages, or what ends the image; off is a multiple of the page
// size. Several goroutines may put different pages.
func (o *overlay) put(p []byte, off int64) error {
	if _, err := o.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("keep later rounds: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for page := off / pack.PageSize; page < (off+int64(len(p))+pack.PageSize-1)/pack.PageSize; page++ {
		o.pages[page/64] |= 1 << (page % 64)
	}
	return nil
}

// has reports whether a page was kept.
func (o *overlay) has(page int64) bool {
	return page/64 < int64(len(o.pages)) && o.pages[page/64]&(1<<(page%64)) != 0
}

// each calls do for the stretches that were kept, in order, each at most a
// frame long.
func (o *overlay) each(do func(p []byte, off int64) error) error {
	buf := make([]byte, pack.FramePages*pack.PageSize)
	for word, set := range o.pages {
		for set != 0 {
			first := int64(word)*64 + int64(bits.TrailingZeros64(set))
			n := int64(1)
			for n < pack.FramePages && o.has(first+n) {
				n++
			}
			p := buf[:min(n*pack.PageSize, o.bytes-first*pack.PageSize)]
			if got, err := o.file.ReadAt(p, first*pack.PageSize); got < len(p) {
				return fmt.Errorf("read later rounds: %w", err)
			}
			if err := do(p, first*pack.PageSize); err != nil {
				return err
			}
			for i := range n {
				o.pages[(first+i)/64] &^= 1 << ((first + i) % 64)
			}
			set = o.pages[word]
		}
	}
	return nil
}

func (o *overlay) close() {
	if o != nil {
		o.file.Close()
	}
}

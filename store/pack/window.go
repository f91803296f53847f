package pack

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// window is a part of a source file, mapped. Most pages of a guest are zero,
// and to see that needs no copy: reading them by read(2) is a quarter of the
// cost of a capture in which little changed.
type window struct {
	file *os.File
	off  int64
	data []byte
}

// openWindow maps length bytes of r from byte off on; nil where only reading
// works, or will tell what is wrong.
func openWindow(r io.ReaderAt, off int64, length int) *window {
	f, base := fileOf(r)
	if f == nil || (base+off)%PageSize != 0 || !fileReaches(f, base+off+int64(length)) {
		return nil
	}
	data, err := unix.Mmap(int(f.Fd()), base+off, length, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil
	}
	return &window{file: f, off: base + off, data: data}
}

// fill copies the pages that are not zero to their places in b, and says which
// are. The file may change meanwhile: a page counts as zero by one look, and
// whatever else is said about a page is said about the copy. Where read(2)
// would fail, the processor faults; that comes back as an error.
func (w *window) fill(b *batch, zero *[FramePages]bool) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			fault, ok := cause.(interface {
				runtime.Error
				Addr() uintptr
			})
			if !ok {
				panic(cause)
			}
			err = fmt.Errorf("read image at byte %d: %w", w.off, fault)
		}
	}()
	for i := range b.pages {
		src := w.data[i*PageSize : min((i+1)*PageSize, len(w.data))]
		if len(src) < PageSize { // the image's end
			clear(b.page(i)[copy(b.page(i), src):])
			src = b.page(i)
		}
		if zero[i] = isZero(src); !zero[i] {
			copy(b.page(i), src)
		}
	}
	// A file that was cut within a page reads as zeros behind its end.
	if !fileReaches(w.file, w.off+int64(len(w.data))) {
		return fmt.Errorf("read image at byte %d: %w", w.off, io.ErrUnexpectedEOF)
	}
	return nil
}

func (w *window) close() { _ = unix.Munmap(w.data) }

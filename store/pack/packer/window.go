package packer

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/cocoonv2/cocoon/internal/base/mapped"
	"github.com/cocoonv2/cocoon/store/pack"
)

// windowBytes is what is mapped at a time: few enough that what is mapped stays
// small, enough that mapping costs little.
const windowBytes = 16 * frameRawBytes

// window is a part of a source file, mapped. Most pages of a guest are zero,
// and to see that needs no copy: reading them by read(2) is a quarter of the
// cost of a capture in which little changed.
type window struct {
	file  *os.File
	off   int64 // of data in file
	data  []byte
	users atomic.Int32 // it is unmapped when the last one leaves
}

// openWindow maps length bytes of r from byte off on, for one user; nil where
// only reading works, or will tell what is wrong.
func openWindow(r io.ReaderAt, off, length int64) *window {
	f, base := fileOf(r)
	if f == nil || (base+off)%pack.PageSize != 0 || !fileReaches(f, base+off+length) {
		return nil
	}
	data, err := mapped.Open(f, base+off, length)
	if err != nil {
		return nil
	}
	w := &window{file: f, off: base + off, data: data}
	w.users.Store(1)
	return w
}

// leave ends one user's use; nil has none.
func (w *window) leave() {
	if w != nil && w.users.Add(-1) == 0 {
		mapped.Close(w.data)
	}
}

// windows gives the windows of a source one after the other. The zero value of
// all but r is ready.
type windows struct {
	r      io.ReaderAt
	open   *window
	at     int64 // where open begins, in r
	end    int64 // where open ends
	refuse bool  // r cannot be mapped
}

// window gives a part of r that begins at off, and where it stands in it. The
// caller is one more user of it. end is how far the source may be mapped.
func (ws *windows) window(off, length, end int64) (*window, int64) {
	if !ws.refuse && off+length > ws.end {
		ws.open.leave()
		ws.at, ws.end = off, min(off+windowBytes, end)
		if ws.open = openWindow(ws.r, ws.at, ws.end-ws.at); ws.open == nil {
			ws.refuse = true
		}
	}
	if ws.refuse {
		return nil, 0
	}
	ws.open.users.Add(1)
	return ws.open, off - ws.at
}

func (ws *windows) close() { ws.open.leave() }

// fill copies the pages whose bytes l needs from byte from of the window on to
// their places in b. The file may change meanwhile: that a page is zero, or the
// parent's, is said by one look, and whatever else is said about a page is said
// about the copy.
func (w *window) fill(b *batch, from int64, length int, l *look) error {
	data := w.data[from : from+int64(length)]
	err := mapped.Guard(func() error {
		for i := range b.pages {
			src := data[i*pack.PageSize : min((i+1)*pack.PageSize, length)]
			if len(src) < pack.PageSize { // the image's end
				clear(b.page(i)[copy(b.page(i), src):])
				src = b.page(i)
			}
			if l.page(i, src) {
				copy(b.page(i), src)
			}
		}
		return nil
	})
	// A file that was cut within a page reads as zeros behind its end.
	if err == nil && !fileReaches(w.file, w.off+from+int64(length)) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read image at byte %d: %w", w.off+from, err)
	}
	return nil
}

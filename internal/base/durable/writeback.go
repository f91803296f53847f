package durable

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writebackBytes is how much of a file is gathered before the kernel is told.
const writebackBytes = 8 << 20

// Writeback has the kernel write a file out while more of it is being written:
// the disk works at the same time as the processors, and the fsync at the end
// finds little left. It makes nothing durable. Wait before the fsync or close.
type Writeback struct {
	file  *os.File
	since int64 // bytes that the kernel was not told of
	busy  atomic.Bool
	calls sync.WaitGroup
}

// NewWriteback is for one file, which others write.
func NewWriteback(f *os.File) *Writeback { return &Writeback{file: f} }

// Wrote says that n more bytes were written. It does not wait. One goroutine at
// a time calls it. Of nil it is told in vain.
func (w *Writeback) Wrote(n int64) {
	if w == nil {
		return
	}
	w.since += n
	if w.since < writebackBytes || !w.busy.CompareAndSwap(false, true) {
		return
	}
	w.since = 0
	w.calls.Go(func() {
		defer w.busy.Store(false)
		// A file system that cannot costs time, not safety.
		_ = unix.SyncFileRange(int(w.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// Wait returns when the file is not used any more.
func (w *Writeback) Wait() { w.calls.Wait() }

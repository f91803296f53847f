package durable

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writebackBytes is how much is written before the kernel is asked to start.
const writebackBytes = 8 << 20

// Writeback has the kernel write a file out while more of it is being written:
// the disk works at the same time as the processors, and the final fsync finds
// little left. It makes nothing durable. Call Wait before the fsync or close.
type Writeback struct {
	file  *os.File
	since int64 // bytes not reported to the kernel yet
	busy  atomic.Bool
	calls sync.WaitGroup
}

// NewWriteback is for one file, which the caller writes.
func NewWriteback(f *os.File) *Writeback { return &Writeback{file: f} }

// Wrote reports that n more bytes were written. It does not wait. Only one
// goroutine at a time may call it. On nil it does nothing.
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
		// A failure here costs time, not safety.
		_ = unix.SyncFileRange(int(w.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// Wait returns once the file is no longer used.
func (w *Writeback) Wait() { w.calls.Wait() }

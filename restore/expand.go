package restore

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// told receives progress in bytes; may be nil.
type told = func(done, total int64)

// writeMemory expands a snapshot's RAM into one new sparse file: its ranges one
// after the other, in the order of the table in state.json. Every page is
// verified. The file is not fsynced.
func (e *Engine) writeMemory(ctx context.Context, s *subject, onBytes told, path string) error {
	return newSparse(path, s.ram.bytes, func(f *os.File) error { return e.fillMemory(ctx, s, f, onBytes, func(int64) {}) })
}

// fillMemory writes a snapshot's RAM to f, which has its length.
func (e *Engine) fillMemory(ctx context.Context, s *subject, f *os.File, onBytes told, wrote func(bytes int64)) error {
	var offset int64
	progress := &meter{total: s.ram.bytes, onBytes: onBytes}
	both := func(n int64) {
		progress.add(n)
		wrote(n)
	}
	for i, m := range s.snapshot.Spec.Memory {
		im, err := contents.Of(e.Store, s.snapshot).Open(ctx, s.maps.Memory[i])
		if err != nil {
			return err
		}
		err = im.WriteTo(ctx, pack.At(f, offset), runtime.NumCPU(), both)
		im.Close()
		if err != nil {
			return fmt.Errorf("RAM at %#x of snapshot %s: %w", m.GPA, s.snapshot.ID, err)
		}
		offset += int64(m.Bytes)
	}
	return nil
}

// meter sums up the progress of several goroutines.
type meter struct {
	done    atomic.Int64
	total   int64
	onBytes told
}

func (m *meter) add(n int64) {
	if done := m.done.Add(n); m.onBytes != nil {
		m.onBytes(done, m.total)
	}
}

// writeImage expands one image to a new sparse file of its full length.
func writeImage(ctx context.Context, im *pack.Image, path string, onBytes told) error {
	return newSparse(path, im.Bytes(), func(f *os.File) error {
		w := durable.NewWriteback(f)
		err := im.WriteTo(ctx, f, runtime.NumCPU(), w.Wrote)
		w.Wait()
		if err != nil {
			return err
		}
		if onBytes != nil {
			onBytes(im.Bytes(), im.Bytes())
		}
		return f.Sync()
	})
}

// newSparse makes a file of size bytes, all holes, and has it filled. On error no
// file is left.
func newSparse(path string, size int64, fill func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return fill(f)
}

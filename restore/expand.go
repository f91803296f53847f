package restore

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
)

// WriteMemory expands a snapshot's RAM into one new sparse file: its ranges
// one after the other, in the order of the table in state.json. Every page is
// verified. The file is not fsynced.
func (e *Engine) WriteMemory(ctx context.Context, sn *store.Snapshot, path string) error {
	if err := e.complete(); err != nil {
		return err
	}
	var total int64
	for _, m := range sn.Spec.Memory {
		total += int64(m.Bytes)
	}
	return newSparse(path, total, func(f *os.File) error { return e.fillMemory(ctx, sn, f, total, nil) })
}

// fillMemory writes a snapshot's RAM to f, which has total bytes. w may be nil.
func (e *Engine) fillMemory(ctx context.Context, sn *store.Snapshot, f *os.File, total int64, w *durable.Writeback) error {
	var offset int64
	progress := &meter{total: total, onBytes: e.OnBytes}
	told := func(n int64) {
		progress.add(n)
		w.Wrote(n)
	}
	for i, m := range sn.Spec.Memory {
		im, err := e.Store.OpenMemory(ctx, sn, i)
		if err != nil {
			return err
		}
		err = im.WriteTo(ctx, pack.At(f, offset), runtime.NumCPU(), told)
		im.Close()
		if err != nil {
			return fmt.Errorf("RAM at %#x of snapshot %s: %w", m.GPA, sn.ID, err)
		}
		offset += int64(m.Bytes)
	}
	return nil
}

// meter sums up progress that several goroutines tell of.
type meter struct {
	done    atomic.Int64
	total   int64
	onBytes func(done, total int64) // may be nil
}

func (m *meter) add(n int64) {
	if done := m.done.Add(n); m.onBytes != nil {
		m.onBytes(done, m.total)
	}
}

// writeImage expands one image to a new sparse file of its full length.
func writeImage(ctx context.Context, im *pack.Image, path string, onBytes func(done, total int64)) error {
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

// newSparse makes a file of size bytes, all holes, and has it filled. On error
// no file is left.
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

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/immutable"
)

// Sweep is one run of the collector: a trash folder of its own, filled in
// exclusive windows that are each as short as can be.
type Sweep struct {
	st      *Store
	run     string          // trash/<run>
	emptied map[string]bool // folders that entries were taken from
}

// Sweep begins a run.
func (s *Store) Sweep() *Sweep {
	return &Sweep{st: s, run: s.Path("trash", "gc-"+newID()[:16]), emptied: map[string]bool{}}
}

// Name of this run's folder below trash.
func (sw *Sweep) Name() string { return filepath.Base(sw.run) }

// Prepare makes the trash folder; it comes before the first window that
// discards, outside it, for it waits for the disk.
func (sw *Sweep) Prepare() error {
	if err := durable.Mkdir(sw.run, 0o700); err != nil {
		return fmt.Errorf("make trash: %w", err)
	}
	return nil
}

// Window is the right to decide what goes: only its holder may discard.
type Window struct{ sweep *Sweep }

// Window runs f while no process publishes, removes or leases. f must be
// short: everybody else waits. What it discards is not durably gone before
// Settle.
func (sw *Sweep) Window(ctx context.Context, f func(*Window) error) error {
	return sw.st.exclusive(ctx, func() error { return f(&Window{sw}) })
}

// Discard moves a file or folder of the store into this run's trash.
func (w *Window) Discard(path string) error {
	_, err := durable.Trash(path, w.sweep.run)
	if errors.Is(err, unix.EPERM) && w.sweep.st.isImage(path) {
		if err = immutable.Set(path, false); err == nil {
			_, err = durable.Trash(path, w.sweep.run)
		}
	}
	if err != nil {
		return fmt.Errorf("discard %s: %w", path, err)
	}
	w.sweep.emptied[filepath.Dir(path)] = true
	durable.Step("store.discard")
	return nil
}

// Reap removes a lease whose holder is dead, with its ingest folder; false when
// the holder lives.
func (w *Window) Reap(lease string) (bool, error) {
	lives, err := w.sweep.st.LeaseLives(lease)
	if lives || err != nil {
		return false, err
	}
	ingest := w.sweep.st.Path("ingest", lease)
	if _, err := os.Lstat(ingest); err == nil {
		if err := w.Discard(ingest); err != nil {
			return false, err
		}
	}
	if err := os.Remove(w.sweep.st.Path("leases", lease)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// Settle makes what the windows discarded durably gone; it takes no lock.
func (sw *Sweep) Settle() error {
	var errs []error
	for dir := range sw.emptied {
		errs = append(errs, durable.SyncDir(dir))
	}
	clear(sw.emptied)
	return errors.Join(errs...)
}

// Empty unlinks what the windows discarded; it takes no lock.
func (sw *Sweep) Empty() error { return os.RemoveAll(sw.run) }

// LeaseLives asks the kernel whether a lease has a living holder. The answer is
// exact inside a Window; outside, a lease that is being made may look dead.
func (s *Store) LeaseLives(lease string) (bool, error) {
	return filelock.Held(s.Path("leases", lease))
}

// EmptyTrash unlinks what was discarded, by this run or by earlier ones that
// died; it takes no lock. Traces are emptied, and stay. What cannot be unlinked is
// told to stays, by the name of its entry, and keeps nothing else.
func (s *Store) EmptyTrash(ctx context.Context, stays func(name string, err error)) error {
	entries, err := os.ReadDir(s.Path("trash"))
	if err != nil {
		return fmt.Errorf("empty trash: %w", err)
	}
	for _, e := range entries {
		remove := os.RemoveAll
		if _, ok := parseTrace(e.Name()); ok {
			remove = s.EmptyTrace
		}
		if err := remove(s.Path("trash", e.Name())); err != nil {
			stays(e.Name(), err)
		}
		durable.Step("store.trash.unlinked")
	}
	return ctx.Err()
}

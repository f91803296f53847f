package trash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/immutable"
)

// Run is one collection: a trash folder of its own, filled in exclusive windows
// that are each as short as can be.
type Run struct {
	trash   *Trash
	dir     string          // trash/<run>
	emptied map[string]bool // folders that entries were taken from
}

// Run begins one.
func (t *Trash) Run() *Run {
	return &Run{trash: t, dir: t.path("gc-" + random()), emptied: map[string]bool{}}
}

// Name of this run's folder below trash.
func (r *Run) Name() string { return filepath.Base(r.dir) }

// Prepare makes the folder; it comes before the first window that discards,
// outside it, for it waits for the disk.
func (r *Run) Prepare() error {
	if err := durable.Mkdir(r.dir, 0o700); err != nil {
		return fmt.Errorf("make trash: %w", err)
	}
	return nil
}

// Window is the right to decide what goes: only its holder may discard.
type Window struct{ run *Run }

// Window runs f while no process publishes, removes or leases. f must be short:
// everybody else waits. What it discards is not durably gone before Settle.
func (r *Run) Window(ctx context.Context, f func(*Window) error) error {
	return r.trash.at.Exclusive(ctx, func() error { return f(&Window{r}) })
}

// Discard moves a file or folder of the store into this run's folder.
func (w *Window) Discard(path string) error {
	_, err := durable.Trash(path, w.run.dir)
	if errors.Is(err, unix.EPERM) && filepath.Dir(path) == w.run.trash.at.Path("images", "blobs", "sha256") { // nobody may change those
		if err = immutable.Set(path, false); err == nil {
			_, err = durable.Trash(path, w.run.dir)
		}
	}
	if err != nil {
		return fmt.Errorf("discard %s: %w", path, err)
	}
	w.run.emptied[filepath.Dir(path)] = true
	durable.Step("store.discard")
	return nil
}

// Settle makes what the windows discarded durably gone; it takes no lock.
func (r *Run) Settle() error {
	var errs []error
	for dir := range r.emptied {
		errs = append(errs, durable.SyncDir(dir))
	}
	clear(r.emptied)
	return errors.Join(errs...)
}

// Empty unlinks what the windows discarded; it takes no lock.
func (r *Run) Empty() error { return os.RemoveAll(r.dir) }

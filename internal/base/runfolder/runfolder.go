// Package runfolder manages what VMs need only while they run: sockets, logs, the
// identity of the VMM. The folder lies outside the stores, usually in RAM, and
// several stores of a host may share it.
//
//	runDir/<vm id>/owner       the mark of the store: package owner
//	runDir/<vm id>/vmm.json    who the VMM is; vmm.log, serial.log, sockets
//
// Words: an entry is the folder of one VM. It is ours if its mark is. One without
// a mark was made by an older program, or by a process that died in the instant
// before writing the mark: its owner is unknown.
//
// Invariants:
//
//  1. Nothing is read or written before the run folder was found to be ours alone
//     (package private), along its whole way, and the entry to belong to us.
//  2. An entry is marked before anything else is put into it. Entries of another
//     store are never changed or removed: this package has no call for that.
//  3. A file is opened relative to the descriptor of its entry, and never through
//     a link; a file being written did not exist before.
package runfolder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/private"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Folder is a run folder as one store sees it. It holds no descriptor.
type Folder struct {
	path  string // without links
	wrong error  // with the way there
	owner func(context.Context) (owner.Mark, error)
}

// New returns the run folder at a path, which need not exist yet, for the store
// with this mark.
func New(path string, mark func(context.Context) (owner.Mark, error)) *Folder {
	at, err := private.Resolve(path)
	if err != nil {
		at = path
	}
	return &Folder{path: at, wrong: refused(at, err), owner: mark}
}

// Path is where it lies.
func (f *Folder) Path() string { return f.path }

// Dir is the path of an entry, for sockets, which can only be opened by path.
func (f *Folder) Dir(id string) string { return filepath.Join(f.path, id) }

// Check refuses a run folder that is not ours alone; a missing one is fine.
func (f *Folder) Check() error {
	if f.wrong != nil {
		return f.wrong
	}
	err := private.Folder(f.path, private.Others)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return refused(f.path, err)
}

// MakePrivate removes the permissions that Check refuses, if nothing else is
// wrong and the folder holds only what is made here: a folder that others use
// must not be closed. It reports whether it did.
func (f *Folder) MakePrivate() (mended bool, err error) {
	var r *private.Refusal
	if err := f.Check(); !errors.As(err, &r) || !r.Open || r.Path != f.path {
		return false, nil
	}
	entries, err := os.ReadDir(f.path)
	if err != nil || slices.ContainsFunc(entries, stranger) {
		return false, err
	}
	return true, os.Chmod(f.path, 0o700)
}

// files beside the entries, shared by the whole host.
var files = []string{"fingerprints.key", "materialise.log"}

// refused gives a refusal of package private its class. A folder that holds more
// than what is made here is shared, and must not be closed.
func refused(path string, err error) error {
	var r *private.Refusal
	if !errors.As(err, &r) {
		return err
	}
	remedy := r.Remedy
	if entries, lerr := os.ReadDir(path); r.Open && lerr == nil && slices.ContainsFunc(entries, stranger) {
		remedy = "choose a separate folder with " + hint.RunDir.Of()
	}
	return failure.Hint(failure.New(failure.Usage, "run folder: %w", r), remedy)
}

func stranger(e fs.DirEntry) bool {
	return !spelling.ID(e.Name()) && !slices.Contains(files, e.Name())
}

// open returns the run folder's descriptor; fs.ErrNotExist if there is none.
func (f *Folder) open() (*os.Root, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	return os.OpenRoot(f.path)
}

// Ensure makes the folder if it is missing.
func (f *Folder) Ensure() error {
	if err := f.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	return f.Check()
}

// Append opens a log beside the entries, and makes the folder if it is missing.
func (f *Folder) Append(name string) (*os.File, error) {
	if err := f.Ensure(); err != nil {
		return nil, err
	}
	run, err := f.open()
	if err != nil {
		return nil, err
	}
	defer run.Close()
	return run.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
}

// IDs lists the entries of all stores, sorted.
func (f *Folder) IDs() ([]string, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the run folder: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if spelling.ID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Having lists the entries of all stores that have a file of this name.
func (f *Folder) Having(name string) ([]string, error) {
	ids, err := f.IDs()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id string) bool {
		_, err := os.Lstat(filepath.Join(f.Dir(id), name))
		return err != nil
	}), nil
}

// Look opens an entry of any store. fs.ErrNotExist if there is none.
func (f *Folder) Look(ctx context.Context, id string) (*Entry, error) {
	run, err := f.open()
	if err != nil {
		return nil, err
	}
	defer run.Close()
	return f.look(ctx, run, id)
}

func (f *Folder) look(ctx context.Context, run *os.Root, id string) (*Entry, error) {
	fi, err := run.Lstat(id)
	if err != nil {
		return nil, err
	}
	if err := private.Opened(f.Dir(id), fi, private.Others); err != nil { // not ours: nothing made it here
		return nil, failure.Hint(failure.New(failure.Usage, "run folder: %w", err), "rm -r "+f.Dir(id)+", if no VM uses it")
	}
	root, err := run.OpenRoot(id)
	if err != nil {
		return nil, err
	}
	e := &Entry{ID: id, root: root, path: f.Dir(id)}
	if e.Mark, err = owner.ReadMark(root, markFile); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, failure.Damaged) {
		root.Close()
		return nil, fmt.Errorf("whose is %s: %w", e.path, err)
	}
	me, err := f.owner(ctx)
	e.Mine = err == nil && me.Owns(e.Mark)
	return e, nil
}

// Make opens the entry of a VM, and makes it if there is none. An existing entry
// that is not ours is taken over only if take, which may be nil, does not refuse.
func (f *Folder) Make(ctx context.Context, id string, take func(*Entry) error) (*Entry, error) {
	me, err := f.owner(ctx)
	if err == nil && me.Store == "" {
		err = failure.New(failure.Incompatible, "the store is read-only")
	}
	if err == nil {
		err = f.Ensure()
	}
	if err != nil {
		return nil, err
	}
	run, err := f.open()
	if err != nil {
		return nil, err
	}
	defer run.Close()
	for {
		if err := run.Mkdir(id, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the run folder of VM %s: %w", id, err)
		}
		e, err := f.look(ctx, run, id)
		if err == nil {
			err = e.claim(me, take)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was empty, and a collector was faster
		}
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

// Remove removes an entry that is ours, or that take does not refuse. A missing
// one is success; taken reports what is left because it belongs to another store.
func (f *Folder) Remove(ctx context.Context, id string, take func(*Entry) error) (taken bool, err error) {
	run, err := f.open()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer run.Close()
	e, err := f.look(ctx, run, id)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer e.Close()
	if !e.Mine && (take == nil || take(e) != nil) {
		return false, nil
	}
	return true, run.RemoveAll(id)
}

// RemoveEmpty removes an entry that is empty, without even a mark.
func (f *Folder) RemoveEmpty(id string) error {
	run, err := f.open()
	if err != nil {
		return err
	}
	defer run.Close()
	return run.Remove(id) // fails where something is in it
}

package runfolder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// Entry is the folder of one VM, open.
type Entry struct {
	ID   string
	Mark owner.Mark // the zero value: there is none
	Mine bool

	root *os.Root
	path string
}

// markFile names the owner of an entry.
const markFile = "owner"

// claim marks an entry that is not ours yet, if take lets it.
func (e *Entry) claim(me owner.Mark, take func(*Entry) error) error {
	if e.Mine {
		return nil
	}
	if names, err := e.Names(); err != nil || len(names) > 0 {
		if err == nil && take == nil {
			err = e.Another()
		} else if err == nil {
			err = take(e)
		}
		if err != nil {
			e.Close()
			return err
		}
	}
	if err := owner.WriteMark(e.root, markFile, me); err != nil {
		e.Close()
		return fmt.Errorf("mark the run folder of VM %s: %w", e.ID, err)
	}
	e.Mark, e.Mine = me, true
	return nil
}

// Another says that the entry belongs to another store.
func (e *Entry) Another() error {
	if e.Mark.Store == "" {
		return failure.Hint(failure.New(failure.Conflict, "%s has no owner, and something is in it", e.path), "choose another folder with "+hint.RunDir.Of()+", or rm -r "+e.path+" if no VM uses it")
	}
	return failure.Hint(failure.New(failure.Conflict, "%s belongs to %s", e.path, e.Mark), "choose another folder with "+hint.RunDir.Of()+" for this store")
}

// Close closes the descriptor.
func (e *Entry) Close() error { return e.root.Close() }

// Path joins a name to the entry's path: of a socket, or for a process to open.
func (e *Entry) Path(name string) string { return filepath.Join(e.path, name) }

// Create makes a new file, replacing an existing name; a process that still reads
// the old file is not affected.
func (e *Entry) Create(name string) (*os.File, error) {
	if err := e.Remove(name); err != nil {
		return nil, err
	}
	return e.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
}

// Write replaces a name by a small file, completely or not at all. Anything else
// under the name, such as a link from when others could create one, is removed
// first.
func (e *Entry) Write(d durable.Document, name string, b []byte) error {
	if fi, err := e.root.Lstat(name); err == nil && !fi.Mode().IsRegular() {
		if err := e.Remove(name); err != nil {
			return err
		}
	}
	return d.WriteIn(e.root, name, b, 0o600)
}

// Read reads a small regular file.
func (e *Entry) Read(d durable.Document, name string) ([]byte, error) { return d.ReadIn(e.root, name) }

// Open opens a regular file for reading.
func (e *Entry) Open(name string) (*os.File, error) { return durable.OpenRegular(e.root, name) }

// Has reports whether the name exists.
func (e *Entry) Has(name string) bool {
	_, err := e.root.Lstat(name)
	return err == nil
}

// Remove removes a file; if it does not exist that is success.
func (e *Entry) Remove(name string) error {
	if err := e.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Names lists what is in the entry.
func (e *Entry) Names() ([]string, error) {
	dir, err := e.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// RemoveSockets removes those left by a VMM or a capture that is gone. Others
// with such names belong to programs of the host that live on.
func (e *Entry) RemoveSockets(except string) error {
	names, err := e.Names()
	for _, name := range names {
		if strings.Contains(name, ".sock") && !strings.HasPrefix(name, except) {
			err = errors.Join(err, e.Remove(name))
		}
	}
	return err
}

// LogFile is the VMM's log. The VMM holds the lock on it for as long as it lives,
// which the kernel reports across PID namespaces.
const LogFile = "vmm.log"

// Lives reports whether a VMM with a locked log is there. VMMs started by older
// programs have none.
func (e *Entry) Lives() (bool, error) { return filelock.Held(e.Path(LogFile)) }

// IsDir reports whether a path is that of this very folder.
func (e *Entry) IsDir(path string) bool {
	here, err := e.root.Stat(".")
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(here, there)
}

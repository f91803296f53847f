package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A draft is an unfinished file or folder, beside its final name, outside the
// store, where no collector comes. It is locked for as long as its maker lives,
// so the next draft in the same folder recognises abandoned ones and removes
// them.

// draftPrefix marks drafts that are locked from the moment they exist.
const draftPrefix = ".cocoon-exporting-"

// Draft is a file or folder to be published. Call Drop, also after Publish.
type Draft struct {
	path, target string
	f            *os.File // locked; of a file, open for writing
}

// DraftFile begins a file that must not exist, readable by its owner only.
func DraftFile(target string) (*Draft, error) {
	return newDraft(target, func(pattern string) (*os.File, error) { return os.CreateTemp(filepath.Dir(target), pattern) })
}

// DraftDir begins a folder that must not exist, open to its owner only.
func DraftDir(target string) (*Draft, error) {
	return newDraft(target, func(pattern string) (*os.File, error) {
		dir, err := os.MkdirTemp(filepath.Dir(target), pattern)
		if err != nil {
			return nil, err
		}
		return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	})
}

func newDraft(target string, make func(pattern string) (*os.File, error)) (*Draft, error) {
	if _, err := os.Lstat(target); err == nil {
		return nil, &os.PathError{Op: "make", Path: target, Err: os.ErrExist}
	}
	dropDead(filepath.Dir(target))
	for {
		f, err := make(draftPrefix)
		if errors.Is(err, os.ErrNotExist) && isDir(filepath.Dir(target)) {
			continue // mistaken for an abandoned one before it was opened
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && named(f) {
			return &Draft{f.Name(), target, f}, nil
		}
		f.Close()
		os.RemoveAll(f.Name()) // it may be gone, and would be found again if not
	}
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// dropDead removes drafts in a folder whose makers died. Only for folders in
// which nobody else can create such a name; what cannot be removed is left to the
// next call.
func dropDead(dir string) {
	fi, err := os.Stat(dir)
	if err != nil || !ours(fi) || fi.Mode().Perm()&0o022 != 0 && fi.Mode()&os.ModeSticky == 0 {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), draftPrefix) {
			dropIfDead(filepath.Join(dir, e.Name()))
		}
	}
}

func dropIfDead(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !ours(fi) || !fi.IsDir() && !fi.Mode().IsRegular() {
		return
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && named(f) {
		os.RemoveAll(path)
	}
}

func ours(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Path is its temporary path.
func (d *Draft) Path() string { return d.path }

// File is a draft file, open for writing.
func (d *Draft) File() *os.File { return d.f }

// Publish gives the draft its final name, durably with all its contents;
// os.ErrExist if the name was taken meanwhile.
func (d *Draft) Publish() error {
	fi, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("make %s: %w", d.target, err)
	}
	if fi.IsDir() {
		err = SyncTree(d.path)
	} else {
		err = d.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", d.target, err)
	}
	return Publish(d.path, d.target)
}

// Drop removes a draft that was not published; otherwise it does nothing.
func (d *Draft) Drop() error {
	if d.f == nil {
		return nil
	}
	f := d.f
	d.f = nil
	var err error
	if named(f) {
		err = os.RemoveAll(d.path)
	}
	return errors.Join(err, f.Close())
}

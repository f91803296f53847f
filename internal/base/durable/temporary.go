package durable

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const temporaryPrefix = ".tmp-"

// newTemporary makes the file that will become path. It is locked from here on,
// so that a collector sees that its writer lives; if a collector locks it first,
// between the two calls, another one is made.
func newTemporary(path string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(path), temporaryPrefix+filepath.Base(path)+"-")
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && named(f) {
			return f, nil
		}
		f.Close()
		os.Remove(f.Name()) // it may be gone, and would be found again if not
	}
}

// newTemporaryIn is newTemporary in a folder that is open.
func newTemporaryIn(folder *os.Root, name string) (*os.File, error) {
	for {
		var tail [8]byte
		rand.Read(tail[:]) // never fails: crypto/rand aborts the process instead
		temporary := temporaryPrefix + name + "-" + hex.EncodeToString(tail[:])
		f, err := folder.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && namedIn(folder, temporary, f) {
			return f, nil
		}
		f.Close()
		folder.Remove(temporary) // it may be gone
	}
}

func namedIn(folder *os.Root, name string, f *os.File) bool {
	at, err := folder.Lstat(name)
	if err != nil {
		return false
	}
	is, err := f.Stat()
	return err == nil && os.SameFile(at, is)
}

func named(f *os.File) bool {
	at, err := os.Lstat(f.Name())
	if err != nil {
		return false
	}
	is, err := f.Stat()
	return err == nil && os.SameFile(at, is)
}

// Stray returns a file left behind by a write whose process died, locked until it
// is closed, so that nothing else uses it. It is nil for a file that is still
// being written and for any other file.
func Stray(path string) (*os.File, error) {
	if !strings.HasPrefix(filepath.Base(path), temporaryPrefix) {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && named(f) {
		return f, nil
	}
	f.Close()
	return nil, nil
}

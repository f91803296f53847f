// Package programtest writes programs that a test starts afterwards: plugins,
// VMMs and tools that are a few lines of sh.
//
// While a file is open for writing the kernel starts it for nobody ("text file
// busy"), and a process that another test starts meanwhile has what is open in
// this one until it becomes its own program: it would keep the file open past the
// writer's close. So nobody starts a process while one is written.
package programtest

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Write makes a program of this text, or replaces one.
func Write(path string, text []byte) error {
	return WriteFrom(path, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// WriteFrom makes a program of what write writes, that everybody may start, or
// replaces one: whoever starts it gets the old one or the new one.
func WriteFrom(path string, write func(io.Writer) error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(filepath.Dir(path), ".program-")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(0o755), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // only a name in a folder of the test
	}
	return err
}

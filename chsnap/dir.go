package chsnap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// memoryFile of a snapshot folder is the ranges of state.json one after the
// other without header or padding.
const memoryFile = "memory-ranges"

// Dir is a snapshot folder: config.json, state.json and memory-ranges.
type Dir struct {
	Config     *Config
	State      *State
	MemoryPath string
	Ranges     []Range
}

// OpenFolder opens an untrusted snapshot folder. Nothing outside it can be
// reached through it, whatever links are put into it and when.
func OpenFolder(dir string) (*os.Root, error) {
	fi, err := os.Lstat(dir)
	if os.IsNotExist(err) {
		return nil, failure.New(failure.NotFound, "no folder %s", dir)
	}
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, failure.New(failure.Usage, "%s is not a folder", dir)
	}
	return os.OpenRoot(dir)
}

// ReadDir reads a snapshot folder as ReadFolder does.
func ReadDir(dir string) (*Dir, error) {
	folder, err := OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return ReadFolder(folder)
}

// ReadFolder reads a folder of OpenFolder: regular files only, the documents
// limited and parsed, and memory-ranges exactly as long as the table says (the
// VMM itself restores a short one with silent zeros).
func ReadFolder(folder *os.Root) (*Dir, error) {
	cb, err := readDocument(folder, "config.json")
	if err != nil {
		return nil, err
	}
	sb, err := readDocument(folder, "state.json")
	if err != nil {
		return nil, err
	}
	d := &Dir{MemoryPath: filepath.Join(folder.Name(), memoryFile)}
	if d.Config, err = ParseConfig(cb); err != nil {
		return nil, fmt.Errorf("%s: %w", folder.Name(), err)
	}
	if d.State, err = ParseState(sb); err != nil {
		return nil, fmt.Errorf("%s: %w", folder.Name(), err)
	}
	d.Ranges = d.State.MemoryRanges()
	f, err := d.OpenMemory(folder)
	if err != nil {
		return nil, err
	}
	return d, f.Close()
}

// OpenMemory opens memory-ranges of the folder that d was read from, if its
// length is right.
func (d *Dir) OpenMemory(folder *os.Root) (*os.File, error) {
	f, err := durable.OpenRegular(folder, memoryFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.Damaged, "no %s", d.MemoryPath)
	}
	if err != nil {
		return nil, err
	}
	var want uint64
	for _, r := range d.Ranges {
		want += r.Length
	}
	fi, err := f.Stat()
	if err == nil && (len(d.Ranges) == 0 || uint64(fi.Size()) != want) {
		err = failure.New(failure.Damaged, "%s has %d bytes, the table of memory ranges says %d", d.MemoryPath, fi.Size(), want)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readDocument(folder *os.Root, name string) ([]byte, error) {
	b, err := durable.Document{Name: name, Limit: documentLimit}.ReadIn(folder, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.Damaged, "no %s", filepath.Join(folder.Name(), name))
	}
	return b, failure.Wrap(failure.Damaged, err)
}

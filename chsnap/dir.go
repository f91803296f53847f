package chsnap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// Dir is a snapshot folder: config.json, state.json and memory-ranges, the
// last being the ranges of State one after the other without header or padding.
type Dir struct {
	Config     *Config
	State      *State
	MemoryPath string
	Ranges     []Range
}

// ReadDir reads a folder that anybody may have made: regular files only, the
// documents bounded and parsed, and memory-ranges exactly as long as the table
// says (the VMM itself restores a short one with silent zeros).
func ReadDir(dir string) (*Dir, error) {
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
	cb, err := readDocument(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	sb, err := readDocument(filepath.Join(dir, "state.json"))
	if err != nil {
		return nil, err
	}
	d := &Dir{MemoryPath: filepath.Join(dir, "memory-ranges")}
	if d.Config, err = ParseConfig(cb); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if d.State, err = ParseState(sb); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	d.Ranges = d.State.MemoryRanges()
	return d, d.checkMemory()
}

func (d *Dir) checkMemory() error {
	fi, err := os.Lstat(d.MemoryPath)
	if os.IsNotExist(err) {
		return failure.New(failure.Damaged, "no %s", d.MemoryPath)
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return failure.New(failure.Damaged, "%s is not a regular file", d.MemoryPath)
	}
	var want uint64
	for _, r := range d.Ranges {
		want += r.Length
	}
	if len(d.Ranges) == 0 || uint64(fi.Size()) != want {
		return failure.New(failure.Damaged, "%s has %d bytes, the table of memory ranges says %d", d.MemoryPath, fi.Size(), want)
	}
	return nil
}

func readDocument(path string) ([]byte, error) {
	b, err := durable.ReadSmall(path, documentLimit)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.Damaged, "no %s", path)
	}
	return b, failure.Wrap(failure.Damaged, err)
}

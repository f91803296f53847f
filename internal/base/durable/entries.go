package durable

import (
	"errors"
	"io/fs"
	"os"
)

// Entries lists a folder that others may remove meanwhile: once it is gone, it has
// none.
func Entries(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return entries, err
}

package durable

import (
	"io/fs"
	"os"
)

// Entries lists a folder that others may remove meanwhile: once it is gone, it has
// none.
func Entries(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	return entries, IgnoreMissing(err)
}

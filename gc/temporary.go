package gc

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cocoonv2/cocoon/gc/garbage"
)

// withoutTemporaries are folders in which no small file is written in place of
// another, or which have a collector of their own for what is unfinished.
var withoutTemporaries = []string{"blobs", "images/blobs", "cache/memory", "cache/fingerprints", "ingest", "leases", "names", "trash"}

// temporaries: a small file is written under another name and renamed. If the
// writer died before that, the file stays beside the one it was to replace,
// wherever that is. Each is locked until the run ends, so nothing uses it.
func (c *collector) temporaries(*plan) error {
	root := c.st.Root()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(withoutTemporaries, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		return garbage.JudgeStray(c, rel, path, true)
	})
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

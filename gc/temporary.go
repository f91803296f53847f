package gc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/store"
)

// withoutTemporaries are folders in which no small file is written in place of
// another, or which have a collector of their own for what is unfinished.
var withoutTemporaries = []string{"blobs", "images/blobs", "cache/memory", "cache/fingerprints", "ingest", "leases", "names", "trash"}

// temporaries: a small file is written under another name and renamed. One whose
// writer died before that stays beside what it was to replace, wherever that is.
// Each is locked until the run ends, and so is nobody's.
func (c *collector) temporaries(p *plan) error {
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
		return c.temporary(p, rel, path, true)
	})
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// notes that a blob is damaged go with the blob.
func (c *collector) notes(p *plan) error {
	entries, err := os.ReadDir(c.st.Path("cache", "damaged"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	for _, e := range entries {
		if o, ok := parseBlob(e.Name()); ok && !p.held(o) {
			path := c.st.Path("cache", "damaged", e.Name())
			p.victims = append(p.victims, victim{
				kind: "cache", id: "damaged/" + e.Name(), path: path, reason: "nothing names the blob that it warns of", object: o, inStore: true,
			})
		}
	}
	return nil
}

func (c *collector) temporary(p *plan, rel, path string, inStore bool) error {
	f, err := durable.Stray(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || f == nil {
		return err
	}
	c.strays = append(c.strays, f)
	p.victims = append(p.victims, victim{
		kind: "temporary", id: rel, path: path, bytes: store.FileBytes(path), reason: "its writer is dead", inStore: inStore,
		still: func() bool { return exists(path) }, // not with its folder
	})
	return nil
}

func (c *collector) closeStrays() {
	for _, f := range c.strays {
		f.Close()
	}
}

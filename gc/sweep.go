package gc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/trash"
)

// module collects one kind of object. Folder is its place below rootDir, "" for a
// place outside.
type module struct {
	folder  string
	collect func(*collector, *plan) error
}

// modules are what gc collects itself. A folder of the store that is neither here
// nor in handled, and that no source covers, ends the run before it begins: no
// kind of object can be forgotten.
var modules = []module{
	{"snapshots", (*collector).snapshots},
	{"blobs/sha256", func(c *collector, p *plan) error {
		return c.blobs(p, garbage.Source{Folder: "blobs/sha256", Blobs: garbage.Blob})
	}},
	{"trash", (*collector).trash},
	{"", (*collector).former},
}

// handled are folders whose leftovers are treated before the modules run (leases,
// ingest) or after them (names).
var handled = []string{"leases", "ingest", "names"}

// each visits the entries of a folder of the store.
func (c *collector) each(folder string, visit func(name, path string)) error {
	err := layout.EachEntry(c.st.Path(folder), func(name []byte, _ uint64) {
		visit(string(name), c.st.Path(folder, string(name)))
	})
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// snapshots: a folder without a manifest was never published.
func (c *collector) snapshots(p *plan) error {
	return c.each("snapshots", func(name, path string) {
		empty := func() bool {
			_, err := os.Lstat(filepath.Join(path, "manifest.json"))
			return errors.Is(err, os.ErrNotExist)
		}
		if empty() {
			if key, ok := garbage.SnapshotKey(name); ok {
				c.Judge(garbage.Object{Kind: garbage.Snapshot, ID: name, Key: key, Path: path, Reason: "has no manifest", InStore: true, Still: empty})
			}
		}
	})
}

// blobs are listed and judged concurrently; few of a million need more than their
// name.
func (c *collector) blobs(p *plan, src garbage.Source) error {
	batches := make(chan []string, 4)
	var listing errgroup.Group
	listing.Go(func() error { defer close(batches); return listNames(c.st.Path(src.Folder), batches) })
	for batch := range batches {
		for _, name := range batch {
			o, ok := garbage.BlobKey(name)
			if ok && c.old != nil && !p.held(o) {
				c.keepOld(p, o, c.st.Path(src.Folder, name))
			}
			if ok && (p.everyHolder || !p.see(o)) {
				c.Judge(garbage.Object{
					Kind: src.Blobs, ID: "sha256:" + name, Key: o, Path: c.st.Path(src.Folder, name), InStore: true, Still: free(src, o),
					Reason: "no snapshot, VM, image, pin or living process names it",
				})
			}
		}
	}
	if err := listing.Wait(); err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// free is a source's check of an unreferenced blob.
func free(src garbage.Source, k garbage.Key) func() bool {
	if src.Free == nil {
		return nil
	}
	return func() bool { return src.Free(k.Digest()) }
}

// namesAtOnce limits the cost of a folder with a million entries.
const namesAtOnce = 1024

// listNames returns the names in a folder in batches, each cut from one text.
func listNames(folder string, batches chan<- []string) error {
	var text []byte
	var ends []int
	flush := func() {
		all, names, from := string(text), make([]string, len(ends)), 0
		for i, end := range ends {
			names[i], from = all[from:end], end
		}
		batches <- names
		text, ends = text[:0], ends[:0]
	}
	err := layout.EachEntry(folder, func(name []byte, _ uint64) {
		text = append(text, name...)
		if ends = append(ends, len(text)); len(ends) == namesAtOnce {
			flush()
		}
	})
	flush()
	return err
}

func (c *collector) trash(p *plan) error {
	return c.each("trash", func(name, path string) {
		if name == c.sweep.Name() || c.st.Trash().IsTrace(name) || c.droppedTrace(name) { // it is accounted for already
			return
		}
		c.Judge(garbage.Object{Kind: garbage.Trash, ID: name, Path: path, Reason: "discarded by an earlier run or removal"})
	})
}

// namesUnborn notes the VMs that the holder of a lease was making. An unreadable
// lease names none: what it was making is doubtful then.
func (c *collector) namesUnborn(lease string) {
	h, _, err := c.st.Leases().Read(lease, 0)
	if err != nil {
		return
	}
	for _, id := range h.VMs {
		if key, ok := garbage.VMKey(id); ok {
			c.unborn[key] = true
		}
	}
}

// droppedTrace: this run removed it, and has reported it.
func (c *collector) droppedTrace(entry string) bool {
	t, ok := trash.TraceOf(entry)
	return ok && t.Kind == string(garbage.Snapshot) && c.dropped[t.ID]
}

//go:build amd64

package durabletest

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// PowerCut writes to a new folder what is on the disk after a power cut now.
// survives is asked for each effect that was not fsynced, in an order that is
// the same each time; those of one file or folder happened in that order.
func (d *Disk) PowerCut(to string, survives func(i int) bool) error {
	i := 0
	for _, ino := range slices.Sorted(maps.Keys(d.nodes)) {
		for _, e := range d.nodes[ino].pending {
			e.chosen = survives(i)
			i++
		}
	}
	lost := d.takenAway()
	w := &writer{entries: map[*node]map[string]*node{}, written: map[*node]string{}}
	for _, n := range d.nodes {
		w.entries[n] = n.after(lost[n])
	}
	return w.folder(d.root, to)
}

// takenAway are the entries that surviving renames took from folders.
func (d *Disk) takenAway() map[*node][]taken {
	lost := map[*node][]taken{}
	for _, n := range d.nodes {
		for _, e := range n.pending {
			if e.chosen && e.also != nil {
				for _, child := range e.set {
					lost[e.also] = append(lost[e.also], taken{e.unset, child, e.back})
				}
			}
		}
	}
	return lost
}

type taken struct {
	name string
	node *node
	back *node // what an exchange left there instead
}

// after are a folder's entries when its chosen effects survive.
func (n *node) after(lost []taken) map[string]*node {
	if !n.dir {
		return nil
	}
	entries := maps.Clone(n.entries)
	for _, e := range n.pending {
		if !e.chosen {
			continue
		}
		for name, child := range e.set {
			if child == nil {
				delete(entries, name)
			} else {
				entries[name] = child
			}
		}
	}
	for _, t := range lost {
		switch {
		case entries[t.name] != t.node: // something else by now
		case t.back != nil:
			entries[t.name] = t.back
		default:
			delete(entries, t.name)
		}
	}
	return entries
}

// writer lays the surviving tree out.
type writer struct {
	entries map[*node]map[string]*node
	written map[*node]string // where a file lies already: the next name is a link
}

func (w *writer) folder(n *node, to string) error {
	if err := os.Mkdir(to, n.mode|0o700); err != nil {
		return err
	}
	for name, child := range w.entries[n] {
		path := filepath.Join(to, name)
		var err error
		switch at, linked := w.written[child]; {
		case child.dir && linked:
			// A folder is in one place; the other name has lost it.
		case child.dir:
			w.written[child] = path
			err = w.folder(child, path)
		case child.link != "":
			err = os.Symlink(child.link, path)
		case linked:
			err = os.Link(at, path)
		default:
			w.written[child] = path
			err = writeSparse(path, child.survived(), child.mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSparse leaves holes where there are only zeros.
func writeSparse(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(len(data)))
	zeros := make([]byte, 1<<16)
	for off := int64(0); err == nil && len(data) > 0; {
		part := data[:min(len(data), len(zeros))]
		if !bytes.Equal(part, zeros[:len(part)]) {
			_, err = f.WriteAt(part, off)
		}
		data, off = data[len(part):], off+int64(len(part))
	}
	return errors.Join(err, f.Close())
}

// survived are a file's contents when its chosen effects survive.
func (n *node) survived() []byte {
	data := slices.Clone(n.data)
	for _, e := range n.pending {
		if e.chosen {
			data = e.on(data)
		}
	}
	return data
}

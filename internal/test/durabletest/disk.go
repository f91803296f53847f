//go:build amd64

package durabletest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a folder as it is now and as it may be after a power cut. It starts as
// a folder of which everything is durable and takes one call after the other.
//
// The rules are those that POSIX leaves room for: an fsync of a file makes its
// contents durable, not its name; an fsync of a folder makes its entries durable,
// not what they lead to. A rename is one entry gone and one made, both or none,
// durable with the folder that has the new one. What was not fsynced is on the
// disk in any part.
type Disk struct {
	root  *node
	nodes map[uint64]*node
	path  string
	// Pending counts the effects that a power cut may take, now.
	Pending int
	effects int
}

// node is a file, a folder or a symbolic link.
type node struct {
	dir     bool
	link    string // what a symbolic link leads to
	mode    fs.FileMode
	data    []byte           // durable contents
	entries map[string]*node // durable entries
	now     map[string]*node // entries as the program sees them
	pending []*effect        // in the order in which they were made
}

// effect is what one call did to a node, and to a second one where a rename
// crosses folders.
type effect struct {
	write  []byte // written at offset
	offset int64
	size   int64 // new size of a file, -1 where it is not cut
	set    map[string]*node
	also   *node // the old parent of a rename
	unset  string
	back   *node // what an exchange leaves under the old name
	number int   // in the order of all effects
	chosen bool
}

// NewDisk reads the folder at root.
func NewDisk(root string) (*Disk, error) {
	d := &Disk{nodes: map[uint64]*node{}, path: root}
	var err error
	d.root, err = d.load(root)
	return d, err
}

func (d *Disk) load(path string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if n := d.nodes[st.Ino]; n != nil {
		return n, nil // a second name
	}
	n := d.node(st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	n.mode = fs.FileMode(st.Mode & 0o777)
	if !n.dir {
		var err error
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			n.link, err = os.Readlink(path)
			return n, err
		}
		n.data, err = os.ReadFile(path)
		return n, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		child, err := d.load(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		n.entries[e.Name()], n.now[e.Name()] = child, child
	}
	return n, nil
}

func (d *Disk) node(ino uint64, dir bool) *node {
	if n := d.nodes[ino]; n != nil {
		return n
	}
	n := &node{dir: dir, mode: 0o600, entries: map[string]*node{}, now: map[string]*node{}}
	if dir {
		n.mode = 0o700
	}
	d.nodes[ino] = n
	return n
}

// parent finds the folder of a path and the last element; nil outside the root.
func (d *Disk) parent(path string) (*node, string) {
	rel, err := filepath.Rel(d.path, path)
	if err != nil || rel == "." || strings.HasPrefix(rel, "..") {
		return nil, ""
	}
	at := d.root
	parts := strings.Split(rel, "/")
	for _, p := range parts[:len(parts)-1] {
		if at = at.now[p]; at == nil {
			return nil, ""
		}
	}
	return at, parts[len(parts)-1]
}

// Apply takes a call that succeeded. It answers whether the call changed
// anything below the root.
func (d *Disk) Apply(c *Call) bool {
	switch c.Name {
	case "openat", "mkdirat", "symlinkat":
		return d.made(c)
	case "unlinkat":
		dir, name := d.parent(c.Path)
		if dir == nil {
			return false
		}
		d.entry(dir, name, nil)
		return true
	case "linkat", "renameat", "renameat2":
		return d.moved(c)
	}
	n := d.nodes[c.Node]
	if n == nil || n == d.root && c.Name == "write" {
		return false
	}
	switch c.Name {
	case "fsync", "fdatasync":
		d.sync(n)
	case "write", "pwrite64", "pwritev", "copy_file_range":
		d.pend(n, &effect{write: slices.Clone(c.Data), offset: c.Offset, size: -1})
	case "ftruncate":
		d.pend(n, &effect{size: c.Bytes})
	case "fallocate":
		d.allocated(n, c)
	default:
		return false
	}
	return true
}

func (d *Disk) made(c *Call) bool {
	dir, name := d.parent(c.Path)
	if dir == nil || c.Node == 0 {
		return false
	}
	old := dir.now[name]
	n := d.node(c.Node, c.Name == "mkdirat")
	n.link = ""
	if c.Name == "symlinkat" {
		n.link = string(c.Data)
	}
	if old == n {
		if c.Flags&unix.O_TRUNC != 0 {
			d.pend(n, &effect{size: 0})
		}
		return true
	}
	d.entry(dir, name, n)
	return true
}

func (d *Disk) moved(c *Call) bool {
	from, old := d.parent(c.Path)
	to, name := d.parent(c.To)
	if to == nil {
		return false
	}
	n := d.nodes[c.Node]
	if n == nil { // it comes from outside: whole
		n = d.node(c.Node, c.Dir)
	}
	e := &effect{size: -1, set: map[string]*node{name: n}}
	if c.Name == "renameat2" && c.Flags&unix.RENAME_EXCHANGE != 0 {
		e.also, e.unset, e.back = from, old, to.now[name]
		from.now[old] = e.back
	}
	to.now[name] = n
	if e.back == nil && c.Name != "linkat" && from != nil {
		delete(from.now, old)
		e.also, e.unset = from, old
	}
	d.pend(to, e)
	return true
}

func (d *Disk) entry(dir *node, name string, n *node) {
	if n == nil {
		delete(dir.now, name)
	} else {
		dir.now[name] = n
	}
	d.pend(dir, &effect{size: -1, set: map[string]*node{name: n}})
}

// allocated: only what changes the size or makes a hole can be seen.
func (d *Disk) allocated(n *node, c *Call) {
	end := c.Offset + c.Bytes
	switch {
	case c.Flags&unix.FALLOC_FL_PUNCH_HOLE != 0:
		d.pend(n, &effect{write: make([]byte, c.Bytes), offset: c.Offset, size: -1})
	case c.Flags&unix.FALLOC_FL_KEEP_SIZE == 0:
		if int64(len(n.contents())) < end {
			d.pend(n, &effect{size: end})
		}
	}
}

func (d *Disk) pend(n *node, e *effect) {
	d.effects++
	e.number = d.effects
	n.pending = append(n.pending, e)
	d.Pending++
}

func (d *Disk) sync(n *node) {
	for _, e := range n.pending {
		n.do(e)
	}
	d.Pending -= len(n.pending)
	n.pending = nil
}

// do makes an effect durable.
func (n *node) do(e *effect) {
	for name, child := range e.set {
		if child == nil {
			delete(n.entries, name)
		} else {
			n.entries[name] = child
		}
	}
	if e.also != nil {
		delete(e.also.entries, e.unset)
		for _, before := range e.also.pending { // what gave it the name is history
			if before.number < e.number {
				delete(before.set, e.unset)
			}
		}
	}
	if e.back != nil {
		e.also.entries[e.unset] = e.back
	}
	if !n.dir {
		n.data = e.on(n.data)
	}
}

// on gives the contents after the effect.
func (e *effect) on(data []byte) []byte {
	size := e.size
	if size < 0 {
		size = max(int64(len(data)), e.offset+int64(len(e.write)))
	}
	if int64(len(data)) < size {
		data = append(data, make([]byte, size-int64(len(data)))...)
	}
	data = data[:size]
	copy(data[min(e.offset, size):], e.write)
	return data
}

// contents are those that the program sees.
func (n *node) contents() []byte {
	data := slices.Clone(n.data)
	for _, e := range n.pending {
		data = e.on(data)
	}
	return data
}

// Package index lists the snapshots of a store, and says which may share pages. It is
// derived: refs.db (package refs) has a row for each snapshot, and notes of families.
//
//  1. A row is true as long as the meta.json and the manifest.json of its snapshot are
//     the files that they were when the row was made, by their inode and the time of
//     their last change, which nobody can set. A list looks at each of these files,
//     reads the snapshots whose row is missing or not of today, and makes the index
//     anew if there were any. So whatever became of the index, the answers are the
//     same, and no other room tells it of changes. It does not look at blobs: of one
//     that is damaged or lost verify tells.
//  2. What could not be read whole has no row: it is read again each time.
//  3. Notes cost reuse and nothing else, if they are missing or wrong. A capture
//     reads them without the rows, and appends one without an fsync.
//  4. Nothing that is kept or removed depends on what the index says.
//
// Snapshots are read by the store ([Read]); here is what a list says of them.
package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/parallel"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

// settled is how old the files of a snapshot must be to be remembered: one that is
// changed twice within a tick of the file system's clock may get its stamp again.
const settled = 20 * time.Millisecond

// Found is what the index says of a snapshot.
type Found struct {
	*document.Snapshot
	ZeroBytes Bytes // of RAM
	Whole     bool  // all of it could be read; else it is not remembered
}

// Read reads a snapshot: failure.NotFound for one that is gone.
type Read func(context.Context, layout.ID) (Found, error)

// Index of one store.
type Index struct {
	at    *layout.Layout
	read  Read
	opens Opens
}

// Opens says whether the key of an id is at hand.
type Opens func(key string) bool

// Of a store.
func Of(at *layout.Layout, read Read, opens Opens) *Index { return &Index{at, read, opens} }

func (x *Index) path() string { return x.at.Path("refs.db") }

// open gives the file, nil where there is none to be trusted.
func (x *Index) open() *refs.Index {
	file, err := refs.Open(x.path(), x.identity())
	if err != nil {
		return nil
	}
	return file
}

// identity of the store, "" of one that has none. A copy of a store has none until
// it is given another: its files are other files, and an index of the old ones
// says nothing of them.
func (x *Index) identity() string {
	id, err := owner.Read(x.at.Root())
	if err != nil {
		return ""
	}
	return id
}

// Check says what is damaged of a file of this store and program.
func (x *Index) Check() error {
	file, err := refs.Open(x.path(), x.identity())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, refs.ErrForeign) {
		return nil
	}
	file.Close()
	if err == nil {
		_, err = refs.ReadNotes(x.path(), x.identity())
	}
	return err
}

// Known is the summary of a snapshot as it was listed last.
func (x *Index) Known(id layout.ID) (Summary, bool) {
	file := x.open()
	defer file.Close()
	var c cached
	ok := c.decode(string(file.Get(string(id)))) == nil && c.Summary.ID == id
	return c.Summary, ok
}

// known are the rows of an index: sorted by id, one a snapshot, all parts of one text.
type known struct {
	ids, rows []string
}

func (x *Index) known() *known {
	k := &known{}
	file := x.open()
	defer file.Close()
	var text strings.Builder
	text.Grow(file.Bytes())
	var ends []int
	for id, row := range file.Rows() {
		text.Write(id)
		ends = append(ends, text.Len())
		text.Write(row)
		ends = append(ends, text.Len())
	}
	all, at := text.String(), 0
	for i := 0; i < len(ends); i += 2 {
		k.ids, k.rows = append(k.ids, all[at:ends[i]]), append(k.rows, all[ends[i]:ends[i+1]])
		at = ends[i+1]
	}
	return k
}

// row of a snapshot, "" for none. Most often it is the one at the place of the
// snapshot in the folder.
func (k *known) row(id layout.ID, place int) string {
	if place < len(k.ids) && k.ids[place] == string(id) {
		return k.rows[place]
	}
	if i, ok := slices.BinarySearch(k.ids, string(id)); ok {
		return k.rows[i]
	}
	return ""
}

// list gives all snapshots, and makes the index anew where it was not exact, or
// anyway.
func (x *Index) list(ctx context.Context, anew bool) ([]cached, error) {
	all, k, exact, err := x.all(ctx, true)
	if err != nil {
		return nil, err
	}
	if !exact || anew {
		_ = x.write(all, k, anew) // without it the next list is slower
	}
	x.forget(all)
	return all, nil
}

// forget takes from what rows say, which were made when a key was there, what nobody
// could read now.
func (x *Index) forget(all []cached) {
	opens := map[string]bool{"": true}
	for i := range all {
		s := &all[i].Summary
		open, asked := opens[s.Key]
		if !asked {
			open = x.opens(s.Key)
			opens[s.Key] = open
		}
		if !open {
			s.Memory.ZeroBytes, s.encoded = UnknownBytes, ""
		}
	}
}

// all gives the snapshots by the index and by themselves, or by themselves alone.
// exact is an index that says all of it.
func (x *Index) all(ctx context.Context, believe bool) (all []cached, k *known, exact bool, err error) {
	read := make(chan *known)
	go func() { read <- x.known() }()
	ids, err := x.at.IDs()
	k = <-read
	if err != nil {
		return nil, nil, false, err
	}
	rows := k
	if !believe {
		rows = &known{}
	}
	all, exact, err = x.look(ctx, ids, rows)
	return all, k, exact, err
}

// write makes the index anew if its rows are others than they were, or anyway. What
// was there stays until the new one is.
func (x *Index) write(all []cached, k *known, anew bool) error {
	countUnique(all)
	rows, changed := rowsOf(all, k)
	if !changed && !anew {
		return nil
	}
	return refs.Write(x.path(), x.identity(), rows, familyNote(all))
}

// look gives each snapshot by its row, where that is of today, or by itself. exact
// is the index when all rows were, and there were no others.
func (x *Index) look(ctx context.Context, ids []layout.ID, k *known) (all []cached, exact bool, err error) {
	folder, err := os.Open(x.at.Path("snapshots"))
	if err != nil {
		return nil, false, fmt.Errorf("list snapshots: %w", err)
	}
	defer folder.Close()
	all = make([]cached, len(ids))
	var misses atomic.Int64
	err = parallel.Each(len(ids), func(i int) (err error) {
		c := &all[i]
		stamp, ok := stampIn(folder, ids[i])
		if ok && c.decode(k.row(ids[i], i)) == nil && c.stamp == stamp && c.Summary.ID == ids[i] {
			return nil
		}
		misses.Add(1)
		*c, err = x.summarise(ctx, ids[i])
		if errors.Is(err, failure.NotFound) {
			return nil // went away; it has no id
		}
		c.stamp = stamp
		return err
	})
	all = slices.DeleteFunc(all, func(c cached) bool { return c.Summary.ID == "" })
	return all, misses.Load() == 0 && len(k.ids) == len(ids), err
}

// stampIn looks at the files of a snapshot from the folder snapshots: of 10,000 looks
// half was the way there from the root.
func stampIn(folder *os.File, id layout.ID) (s stamp, ok bool) {
	var meta, manifest unix.Stat_t
	fd, dir := int(folder.Fd()), string(id)
	if unix.Fstatat(fd, dir+"/meta.json", &meta, unix.AT_SYMLINK_NOFOLLOW) != nil || unix.Fstatat(fd, dir+"/manifest.json", &manifest, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return stamp{}, false
	}
	return stamp{fileStamp{meta.Ino, meta.Ctim.Nano()}, fileStamp{manifest.Ino, manifest.Ctim.Nano()}}, true
}

// rowsOf gives the rows of an index, and whether they are others than those of the
// one that is there. Of a snapshot that cannot be read whole the row stays that was
// there and that no list believes, for whoever makes its meta.json again.
func rowsOf(all []cached, k *known) (rows []refs.Row, changed bool) {
	now := time.Now()
	for i := range all {
		c := &all[i]
		was, row := k.row(c.Summary.ID, i), c.row
		switch {
		case !c.whole || now.Sub(c.stamp.changed()) < settled:
			if row = was; c.believed(was) {
				row = ""
			}
		case row == "":
			row, _ = c.encode() // what is no JSON has no row
		}
		if row != "" {
			rows = append(rows, refs.Row{Key: string(c.Summary.ID), Value: []byte(row)})
		}
		changed = changed || row != was
	}
	slices.SortFunc(rows, func(a, b refs.Row) int { return strings.Compare(a.Key, b.Key) })
	return rows, changed || len(rows) != len(k.ids)
}

// believed says whether a list would take a row for what the snapshot is.
func (c *cached) believed(row string) bool {
	var as cached
	return as.decode(row) == nil && as.stamp == c.stamp && as.Summary.ID == c.Summary.ID
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/refs"
)

// The index (refs.db, package refs) has a row for each snapshot. A row is true as
// long as the meta.json of its snapshot is the file that it was when the row was
// made; so a listing looks at each, reads the snapshots of which the index says
// nothing or something older, and makes the index anew. Whatever became of the
// index, the answers are the same.

// settled is how old a meta.json must be to be remembered: one that is rewritten
// twice within a tick of the file system's clock may get its stamp again.
const settled = 20 * time.Millisecond

func (s *Store) indexPath() string { return s.Path("refs.db") }

// openIndex gives the index, nil where there is none to be trusted.
func (s *Store) openIndex() *refs.Index {
	x, err := refs.Open(s.indexPath(), s.identity())
	if err != nil {
		return nil
	}
	return x
}

// identity of the store, "" of one that has none. A copy of a store has none until
// it is given another: its files are other files, and an index of the old ones
// says nothing of them.
func (s *Store) identity() string {
	id, err := owner.Read(s.Root())
	if err != nil {
		return ""
	}
	return id
}

// CheckIndex says what is damaged of an index of this store and program.
func (s *Store) CheckIndex() error {
	x, err := refs.Open(s.indexPath(), s.identity())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, refs.ErrForeign) {
		return nil
	}
	x.Close()
	if err == nil {
		_, err = refs.ReadNotes(s.indexPath(), s.identity())
	}
	return err
}

// known are the rows of an index: sorted by id, one a snapshot, all parts of one text.
type known struct {
	ids, rows []string
}

func (s *Store) known() (k known) {
	x := s.openIndex()
	defer x.Close()
	var text strings.Builder
	text.Grow(x.Bytes())
	var ends []int
	for id, row := range x.Rows() {
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
func (k *known) row(id ID, place int) string {
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
func (s *Store) list(ctx context.Context, anew bool) ([]cached, error) {
	var k known
	read := make(chan struct{})
	go func() { k = s.known(); close(read) }()
	ids, err := s.IDs()
	<-read
	if err != nil {
		return nil, err
	}
	all, exact, err := s.look(ctx, ids, &k)
	if err != nil || exact && !anew {
		return all, err
	}
	countUnique(all)
	if rows, changed := rowsOf(all, &k); changed || anew {
		_ = refs.Write(s.indexPath(), s.identity(), rows, familyNote(all)) // without it the next list is slower
	}
	return all, nil
}

// look gives each snapshot by its row, where that is of today, or by itself. exact
// is the index when all rows were, and there were no others.
func (s *Store) look(ctx context.Context, ids []ID, k *known) (all []cached, exact bool, err error) {
	folder, err := os.Open(s.Path("snapshots"))
	if err != nil {
		return nil, false, fmt.Errorf("list snapshots: %w", err)
	}
	defer folder.Close()
	all = make([]cached, len(ids))
	var misses atomic.Int64
	err = inParallel(len(ids), func(i int) (err error) {
		c := &all[i]
		stamp, ok := stampIn(folder, ids[i])
		if ok && c.decode(k.row(ids[i], i)) == nil && c.stamp == stamp && c.Summary.ID == ids[i] {
			return nil
		}
		misses.Add(1)
		*c, err = s.summarise(ctx, ids[i])
		if errors.Is(err, failure.NotFound) {
			return nil // went away; it has no id
		}
		c.stamp = stamp
		return err
	})
	all = slices.DeleteFunc(all, func(c cached) bool { return c.Summary.ID == "" })
	return all, misses.Load() == 0 && len(k.ids) == len(ids), err
}

// stampIn looks at a meta.json from the folder snapshots: of 10,000 looks half
// was the way there from the root.
func stampIn(folder *os.File, id ID) (metaStamp, bool) {
	var st unix.Stat_t
	if unix.Fstatat(int(folder.Fd()), string(id)+"/meta.json", &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return metaStamp{}, false
	}
	return metaStamp{st.Ino, st.Mtim.Nano()}, true
}

// rowsOf gives the rows of an index, and whether they are others than those of the
// one that is there. Of a snapshot that cannot be read whole the row stays that was
// there, for whoever makes its meta.json again.
func rowsOf(all []cached, k *known) (rows []refs.Row, changed bool) {
	now := time.Now()
	for i := range all {
		c := &all[i]
		was, row := k.row(c.Summary.ID, i), c.row
		switch {
		case !c.whole || now.Sub(time.Unix(0, c.stamp.mtime)) < settled:
			row = was
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

// inParallel calls do for 0 … n-1, in slices on every processor.
func inParallel(n int, do func(i int) error) error {
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

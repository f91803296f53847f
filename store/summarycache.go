package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// The derived file cache/summaries has one line a snapshot, so that lines are
// parsed side by side:
//
//	ID INODE MTIME [{"d":BLOB,"b":BYTES},…] {SUMMARY}
//
// INODE and MTIME (ns) are those of meta.json when the line was made; the line
// holds as long as they do.

// line is what the file says of one snapshot; body is nil when it says nothing
// that still holds.
type line struct {
	id    ID
	stamp metaStamp
	blobs []byte
	body  []byte
}

// metaStamp changes whenever meta.json is rewritten.
type metaStamp struct {
	inode uint64
	mtime int64 // ns
}

// settled is how old a meta.json must be to be remembered: one that is rewritten
// twice within a tick of the file system's clock may get its stamp again.
const settled = 20 * time.Millisecond

func (s *Store) summaryPath() string { return s.Path("cache", "summaries") }

// lines gives every snapshot that there is, with what the file knows of it;
// exact is false when the file says more or less than that.
func (s *Store) lines() (all []line, exact bool, err error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, false, err
	}
	known := s.readLines()
	all = make([]line, len(ids))
	err = inParallel(len(ids), func(i int) error {
		all[i] = line{id: ids[i]}
		stamp, ok := s.stamp(ids[i])
		if l, hit := known[ids[i]]; hit && ok && l.stamp == stamp {
			all[i] = l
		}
		all[i].stamp = stamp
		return nil
	})
	exact = len(known) == len(ids)
	for i := range all {
		exact = exact && all[i].body != nil
	}
	return all, exact, err
}

func (s *Store) stamp(id ID) (metaStamp, bool) {
	var st syscall.Stat_t
	if syscall.Lstat(s.Path("snapshots", string(id), "meta.json"), &st) != nil {
		return metaStamp{}, false
	}
	return metaStamp{st.Ino, st.Mtim.Nano()}, true
}

// readLines answers nothing when the derived file is missing, and leaves out
// lines that are damaged.
func (s *Store) readLines() map[ID]line {
	b, err := os.ReadFile(s.summaryPath())
	if err != nil {
		return nil
	}
	known := make(map[ID]line, bytes.Count(b, []byte{'\n'}))
	for row := range bytes.Lines(b) {
		if l, ok := parseLine(row); ok {
			known[l.id] = l
		}
	}
	return known
}

func parseLine(row []byte) (line, bool) {
	f := bytes.SplitN(bytes.TrimSuffix(row, []byte{'\n'}), []byte{' '}, 5)
	if len(f) != 5 || !validID(string(f[0])) {
		return line{}, false
	}
	inode, err1 := strconv.ParseUint(string(f[1]), 10, 64)
	mtime, err2 := strconv.ParseInt(string(f[2]), 10, 64)
	if err1 != nil || err2 != nil {
		return line{}, false
	}
	return line{ID(f[0]), metaStamp{inode, mtime}, f[3], f[4]}, true
}

// parse fills c from the line. The blobs are parsed only on demand: unique sizes
// follow from them. Half of a listing was encoding/json here; its successor takes
// a third of that.
func (l *line) parse(c *cached, blobs bool) error {
	c.stamp = l.stamp
	if blobs {
		if err := jsonv2.Unmarshal(l.blobs, &c.Blobs); err != nil {
			return err
		}
	}
	if err := jsonv2.Unmarshal(l.body, &c.Summary); err != nil {
		return err
	}
	if c.Summary.ID != l.id {
		return failure.New(failure.Damaged, "the line of snapshot %s is a summary of %q", l.id, c.Summary.ID)
	}
	return nil
}

// line is what parseLine reads.
func (c *cached) line() ([]byte, error) {
	body, err := json.Marshal(c.Summary)
	blobs, berr := json.Marshal(c.Blobs)
	return fmt.Appendf(nil, "%s %d %d %s %s\n", c.Summary.ID, c.stamp.inode, c.stamp.mtime, blobs, body), errors.Join(err, berr)
}

// writeSummaries is best effort: without the file the next list is slower.
func (s *Store) writeSummaries(all []cached) {
	var b bytes.Buffer
	now := time.Now()
	for _, c := range all {
		line, err := c.line()
		if err != nil || now.Sub(time.Unix(0, c.stamp.mtime)) < settled {
			continue
		}
		b.Write(line)
	}
	_ = durable.WriteFile(s.summaryPath(), b.Bytes(), 0o600)
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

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// The derived file cache/summaries begins with summariesHeader, which changes with
// what a summary says, and has one line a snapshot, so that lines are parsed side by
// side:
//
//	ID INODE MTIME [{"d":BLOB,"b":BYTES},…] {SUMMARY}
//
// INODE and MTIME (ns) are those of meta.json when the line was made; the line
// holds as long as they do.

const summariesHeader = "summaries 2\n"

// line is what the file says of one snapshot; body is empty when it says nothing
// that still holds.
type line struct {
	id          ID
	stamp       metaStamp
	blobs, body string
	was         *line // what it said before meta.json was rewritten, or lost
}

func (l *line) text() []byte {
	return fmt.Appendf(nil, "%s %d %d %s %s\n", l.id, l.stamp.inode, l.stamp.mtime, l.blobs, l.body)
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
	var known map[ID]line
	read := make(chan struct{})
	go func() { known = s.readLines(); close(read) }()
	ids, err := s.IDs()
	<-read
	if err != nil {
		return nil, false, err
	}
	folder, err := os.Open(s.Path("snapshots"))
	if err != nil {
		return nil, false, fmt.Errorf("list snapshots: %w", err)
	}
	defer folder.Close()
	all = make([]line, len(ids))
	err = inParallel(len(ids), func(i int) error {
		all[i] = line{id: ids[i]}
		stamp, ok := stampIn(folder, ids[i])
		switch l, hit := known[ids[i]]; {
		case hit && ok && l.stamp == stamp:
			all[i] = l
		case hit:
			all[i].was = &l
		}
		all[i].stamp = stamp
		return nil
	})
	exact = len(known) == len(ids)
	for i := range all {
		exact = exact && all[i].body != ""
	}
	return all, exact, err
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

// readLines answers nothing when the derived file is missing, and leaves out
// lines that are damaged.
func (s *Store) readLines() map[ID]line {
	text, err := readText(s.summaryPath())
	if err != nil {
		return nil
	}
	text, current := strings.CutPrefix(text, summariesHeader)
	known := make(map[ID]line, strings.Count(text, "\n"))
	for row := range strings.Lines(text) {
		l, ok := parseLine(row)
		if !current {
			l.stamp = metaStamp{} // of another program: it says something else, which is better than nothing
		}
		if ok {
			known[l.id] = l
		}
	}
	return known
}

// readText reads a file that its lines are parts of, without a copy.
func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	return unsafe.String(unsafe.SliceData(b), len(b)), err // nobody changes b
}

func parseLine(row string) (l line, ok bool) {
	id, rest, ok1 := strings.Cut(strings.TrimSuffix(row, "\n"), " ")
	inode, rest, ok2 := strings.Cut(rest, " ")
	mtime, rest, ok3 := strings.Cut(rest, " ")
	blobs, body, ok4 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || !ok3 || !ok4 || !spelling.ID(id) {
		return line{}, false
	}
	var err1, err2 error
	l = line{id: ID(id), blobs: blobs, body: body}
	l.stamp.inode, err1 = strconv.ParseUint(inode, 10, 64)
	l.stamp.mtime, err2 = strconv.ParseInt(mtime, 10, 64)
	return l, err1 == nil && err2 == nil
}

// parse fills c from the line. The blobs are parsed only on demand: unique sizes
// follow from them. What is not laid out as usual is read by the successor of
// encoding/json, which takes a third of its time.
func (l *line) parse(c *cached, blobs bool) error {
	c.stamp = l.stamp
	if blobs {
		if err := jsonv2.Unmarshal([]byte(l.blobs), &c.Blobs); err != nil {
			return err
		}
	}
	if decodeLayout(l.body, &c.Summary) {
		c.Summary.encoded = l.body
	} else {
		c.Summary = Summary{}
		if err := jsonv2.Unmarshal([]byte(l.body), &c.Summary); err != nil {
			return err
		}
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
	l := line{id: c.Summary.ID, stamp: c.stamp, blobs: string(blobs), body: string(body)}
	return l.text(), errors.Join(err, berr)
}

// writeSummaries is best effort: without the file the next list is slower.
func (s *Store) writeSummaries(all []cached) {
	var b bytes.Buffer
	b.WriteString(summariesHeader)
	now := time.Now()
	for _, c := range all {
		if c.Summary.State == Damaged && c.was != nil {
			b.Write(c.was.text()) // for who makes its meta.json again
			continue
		}
		line, err := c.line()
		if err != nil || now.Sub(time.Unix(0, c.stamp.mtime)) < settled {
			continue
		}
		b.Write(line)
	}
	_ = derivedDocument.Write(s.summaryPath(), b.Bytes(), 0o600)
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

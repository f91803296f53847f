package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// A name stands in its snapshot's meta.json and nowhere else. The derived file
// cache/names only says where to look, so that a name is found among 10,000
// snapshots without reading 10,000 files. It has one line for each claim to a
// name, appended under names.lock before the snapshot is published or renamed:
//
//	CRC32 ID "NAME"
//
// So it may say too much (the publisher died, the snapshot was renamed or
// removed) but never too little: a snapshot's name is among its claims, or the
// snapshot has none, and is asked itself. A line that does not hold ends the
// trust in the whole file, which is then made again.

func (s *Store) namesPath() string { return s.Path("cache", "names") }

// claims is what the file says: who claims which name, and who claims any.
type claims struct {
	of    map[string][]ID
	known map[ID]bool
	count int
	torn  bool // the last line has no end: its writer was killed
}

func claimLine(id ID, name string) []byte {
	body := fmt.Sprintf("%s %q", id, name)
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE([]byte(body)), body)
}

// readClaims answers nil when there is no file that can be trusted.
func (s *Store) readClaims() *claims {
	b, err := os.ReadFile(s.namesPath())
	if err != nil {
		return nil
	}
	return decodeClaims(b)
}

func decodeClaims(b []byte) *claims {
	text := string(b) // ids and names are parts of it
	lines := bytes.Count(b, []byte{'\n'})
	c := &claims{of: make(map[string][]ID, lines), known: make(map[ID]bool, lines)}
	for at := 0; at < len(b); {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			c.torn = true
			break
		}
		id, name, ok := parseClaim(b[at:at+end], text[at:at+end])
		if !ok {
			return nil
		}
		c.of[name] = append(c.of[name], id)
		c.known[id] = true
		c.count++
		at += end + 1
	}
	return c
}

// claimPrefix is the length of what stands before a claim's ID.
const claimPrefix = len("01234567 ")

// parseClaim reads a line, given in both forms to spare a copy.
func parseClaim(b []byte, line string) (ID, string, bool) {
	sum, body, ok := strings.Cut(line, " ")
	if want, err := strconv.ParseUint(sum, 16, 32); !ok || len(sum) != claimPrefix-1 || err != nil || uint32(want) != crc32.ChecksumIEEE(b[claimPrefix:]) {
		return "", "", false
	}
	id, quoted, _ := strings.Cut(body, " ")
	name, err := strconv.Unquote(quoted)
	return ID(id), name, err == nil && validID(id)
}

// idOf finds the snapshot of exactly this name; "" if there is none as far as
// the file knows.
func (s *Store) idOf(ctx context.Context, name string) (ID, error) {
	c := s.readClaims()
	if c == nil {
		return s.idInFiles(ctx, name)
	}
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	return s.named(c.whomToAsk(ids, name), name), nil
}

// whomToAsk picks those that claim the name, and those that claim none.
func (c *claims) whomToAsk(ids []ID, name string) []ID {
	ask := slices.Clone(c.of[name])
	for _, id := range ids {
		if !c.known[id] {
			ask = append(ask, id)
		}
	}
	return ask
}

// named gives the one of these snapshots that has the name. One that is damaged
// or gone has none.
func (s *Store) named(ids []ID, name string) ID {
	for _, id := range ids {
		dir := s.Path("snapshots", string(id))
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		if m, err := readMeta(dir); err == nil && m.Name == name {
			return id
		}
	}
	return ""
}

// idInFiles is idOf by the snapshots themselves, before it is said that there is
// no such name. When the file was not to be trusted it is made again, if it can.
func (s *Store) idInFiles(ctx context.Context, name string) (ID, error) {
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	id := s.named(ids, name)
	if id != "" || s.readClaims() == nil {
		_ = s.names(ctx, func() error {
			if ids, err = s.IDs(); err == nil {
				_, err = s.rewriteNames(ids, nil)
			}
			return err
		})
	}
	return id, nil
}

// claimName makes sure that a name is free and writes down who takes it; "" is
// always free. It runs under names.lock, before the name is taken. The claim of
// a snapshot that has others already must last: else the file says too little.
func (s *Store) claimName(id ID, name string, lasting bool) error {
	line := claimLine(id, name)
	if name == "" && s.mayAppend(len(line)) {
		return appendTo(s.namesPath(), line, lasting)
	}
	if name != "" {
		if err := ValidateName(name); err != nil {
			return err
		}
	}
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	c := s.readClaims()
	if c == nil || c.torn || c.count > 2*len(ids)+minClaims {
		if c, err = s.rewriteNames(ids, c); err != nil {
			return err
		}
	}
	if name != "" {
		if holder := s.named(c.whomToAsk(ids, name), name); holder != "" {
			return failure.New(failure.Conflict, "snapshot name %q is taken by %s", name, holder)
		}
	}
	return appendTo(s.namesPath(), line, lasting)
}

// mayAppend: a line of n bytes can be added without reading the file, since its
// last line is whole and it is not time to see whether the file has grown.
func (s *Store) mayAppend(n int) bool {
	f, err := os.Open(s.namesPath())
	if err != nil {
		return false
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return false
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], fi.Size()-1)
	return err == nil && last[0] == '\n' && fi.Size()/lookEvery == (fi.Size()+int64(n))/lookEvery
}

// lookEvery so many bytes, some 1,400 claims, the file is read although nobody
// asked for a name.
const lookEvery = 64 << 10

// minClaims keeps small stores from rewriting a small file often.
const minClaims = 1000

// rewriteNames writes the file anew for these snapshots: from what it said
// itself or, when that is nil, from the snapshots. names.lock is held, so that
// no claim is under way.
func (s *Store) rewriteNames(ids []ID, old *claims) (*claims, error) {
	c := &claims{of: map[string][]ID{}, known: map[ID]bool{}}
	var b bytes.Buffer
	add := func(id ID, name string) {
		c.of[name] = append(c.of[name], id)
		c.known[id] = true
		c.count++
		b.Write(claimLine(id, name))
	}
	if old != nil {
		there := make(map[ID]bool, len(ids))
		for _, id := range ids {
			there[id] = true
		}
		for name, claimants := range old.of {
			for _, id := range claimants {
				if there[id] {
					add(id, name)
				}
			}
		}
		return c, durable.WriteFile(s.namesPath(), b.Bytes(), 0o600)
	}
	for _, id := range ids {
		if m, err := readMeta(s.Path("snapshots", string(id))); err == nil {
			add(id, m.Name)
		}
	}
	return c, durable.WriteFile(s.namesPath(), b.Bytes(), 0o600)
}

// appendTo adds a line to a file that exists.
func appendTo(path string, line []byte, lasting bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("claim a name: %w", err)
	}
	_, err = f.Write(line)
	if err == nil && lasting {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("claim a name: %w", err)
	}
	return nil
}

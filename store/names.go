package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strconv"

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

// claims is what the file says of one name: who claims it, and who claims any.
type claims struct {
	of    []ID
	known map[idKey]struct{}
	lines []byte // the file
	count int
	torn  bool // the last line has no end: its writer was killed
}

// idKey is an ID in half of its length.
type idKey [16]byte

func keyOf[T ID | []byte](id T) (k idKey, ok bool) {
	n, err := hex.Decode(k[:], []byte(id))
	return k, err == nil && n == len(k)
}

func claimLine(id ID, name string) []byte {
	body := fmt.Sprintf("%s %q", id, name)
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE([]byte(body)), body)
}

// readClaims answers nil when there is no file that can be trusted.
func (s *Store) readClaims(name string) *claims {
	b, err := os.ReadFile(s.namesPath())
	if err != nil {
		return nil
	}
	return decodeClaims(b, name)
}

// decodeClaims answers nil when a line does not hold.
func decodeClaims(b []byte, name string) *claims {
	c := &claims{known: make(map[idKey]struct{}, bytes.Count(b, []byte{'\n'})), lines: b}
	want := strconv.AppendQuote(nil, name)
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			c.torn = true
			break
		}
		key, id, quoted, ok := parseClaim(line)
		if !ok {
			return nil
		}
		if bytes.Equal(quoted, want) {
			c.of = append(c.of, ID(id))
		}
		c.known[key] = struct{}{}
		c.count++
		b = rest
	}
	return c
}

// parseClaim reads a line.
func parseClaim(line []byte) (key idKey, id, quoted []byte, ok bool) {
	const sumEnd, idEnd = 8, 8 + 1 + 32
	if len(line) < idEnd+len(` ""`) || line[sumEnd] != ' ' || line[idEnd] != ' ' || line[idEnd+1] != '"' || line[len(line)-1] != '"' {
		return key, nil, nil, false
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:sumEnd]); err != nil || binary.BigEndian.Uint32(sum[:]) != crc32.ChecksumIEEE(line[sumEnd+1:]) {
		return key, nil, nil, false
	}
	id, quoted = line[sumEnd+1:idEnd], line[idEnd+1:]
	key, ok = keyOf(id)
	return key, id, quoted, ok && validID(string(id))
}

// idOf finds the snapshot of exactly this name; "" if there is none as far as
// the file knows.
func (s *Store) idOf(ctx context.Context, name string) (ID, error) {
	c := s.readClaims(name)
	if c == nil {
		return s.idInFiles(ctx, name)
	}
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	return s.named(c.whomToAsk(ids), name), nil
}

// whomToAsk picks those that claim the name, and those that claim none.
func (c *claims) whomToAsk(ids []ID) []ID {
	ask := slices.Clone(c.of)
	for _, id := range ids {
		if !c.knows(id) {
			ask = append(ask, id)
		}
	}
	return ask
}

func (c *claims) knows(id ID) bool {
	key, _ := keyOf(id)
	_, ok := c.known[key]
	return ok
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
	if id != "" || s.readClaims(name) == nil {
		_ = s.names(ctx, func() error {
			if ids, err = s.IDs(); err == nil {
				_, err = s.rewriteNames(ids, nil, name)
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
	c := s.readClaims(name)
	if c == nil || c.torn || c.count > 2*len(ids)+minClaims {
		if c, err = s.rewriteNames(ids, c, name); err != nil {
			return err
		}
	}
	if name != "" {
		if holder := s.named(c.whomToAsk(ids), name); holder != "" {
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
// itself or, when that is nil, from the snapshots. It gives what the new one says
// of a name. names.lock is held, so that no claim is under way.
func (s *Store) rewriteNames(ids []ID, old *claims, name string) (*claims, error) {
	b := old.linesOf(ids)
	if old == nil {
		for _, id := range ids {
			if m, err := readMeta(s.Path("snapshots", string(id))); err == nil {
				b = append(b, claimLine(id, m.Name)...)
			}
		}
	}
	return decodeClaims(b, name), durable.WriteFile(s.namesPath(), b, 0o600)
}

// linesOf is what the file says of these snapshots; nil says nothing.
func (c *claims) linesOf(ids []ID) (b []byte) {
	if c == nil {
		return nil
	}
	there := make(map[idKey]bool, len(ids))
	for _, id := range ids {
		key, _ := keyOf(id)
		there[key] = true
	}
	for line := range bytes.Lines(c.lines) {
		claim, whole := bytes.CutSuffix(line, []byte{'\n'})
		if key, _, _, ok := parseClaim(claim); ok && whole && there[key] {
			b = append(b, line...)
		}
	}
	return b
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

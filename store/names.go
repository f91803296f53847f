package store

import (
	"bytes"
	"context"
	"hash/crc32"
	"os"

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
// trust in the whole file, which is then made again. Where a voucher says so
// (voucher.go), each snapshot has a claim; else the folder is listed to see which
// has none.

func (s *Store) namesPath() string { return s.Path("cache", "names") }

// readClaims answers nil when there is no file that can be trusted.
func (s *Store) readClaims(name string) *claims {
	v := s.vouched() // before the file is read: what is published meanwhile claims first
	b, err := os.ReadFile(s.namesPath())
	if err != nil {
		return nil
	}
	if !v.holds(b) {
		return decodeClaims(b, name)
	}
	c := decodeBehind(b, v.Bytes, name)
	if c != nil {
		c.voucher = v
	}
	return c
}

// there lists the snapshots.
func (s *Store) there() (keys []idKey, err error) {
	err = s.eachFolder(func(name []byte, _ uint64) {
		key, _ := keyOf(name)
		keys = append(keys, key)
	})
	return keys, err
}

// idOf finds the snapshot of exactly this name; "" if there is none as far as
// the file knows.
func (s *Store) idOf(ctx context.Context, name string) (ID, error) {
	c := s.readClaims(name)
	if c == nil {
		return s.idInFiles(ctx, name)
	}
	if id := s.named(c.of, name); id != "" || c.voucher != nil {
		return id, nil
	}
	there, err := s.there()
	if err != nil {
		return "", err
	}
	return s.named(c.unclaimed(there), name), nil
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
			there, err := s.there()
			if err == nil {
				_, err = s.rewriteNames(there, nil, name)
			}
			return err
		})
	}
	return id, nil
}

// claimName makes sure that a name is free and writes down who takes it; "" is
// always free. It runs under names.lock, before the name is taken. The claim of
// a snapshot that has others already must last: else the file says too little.
// Whoever then publishes vouches for the file by the answer.
func (s *Store) claimName(id ID, name string, lasting bool) (*voucher, error) {
	line := claimLine(id, name)
	if name == "" && s.mayAppend(len(line)) {
		return s.vouched(), appendTo(s.namesPath(), line, lasting)
	}
	if name != "" {
		if err := ValidateName(name); err != nil {
			return nil, err
		}
	}
	ask, v, err := s.whomToAsk(name, len(line))
	if err != nil {
		return nil, err
	}
	if name != "" {
		if holder := s.named(ask, name); holder != "" {
			return nil, failure.New(failure.Conflict, "snapshot name %q is taken by %s", name, holder)
		}
		lasting = lasting || s.youngFolder()
	}
	return v, appendTo(s.namesPath(), line, lasting)
}

// whomToAsk gives all snapshots that may have the name, and a voucher if that are
// those that claim it. What has to be done to the file before n bytes are added
// is done here. names.lock is held.
func (s *Store) whomToAsk(name string, n int) ([]ID, *voucher, error) {
	c := s.readClaims(name)
	if c != nil && c.voucher != nil && s.mayAppend(n) {
		return c.of, c.voucher, nil
	}
	there, err := s.there()
	if err != nil {
		return nil, nil, err
	}
	if c == nil || c.torn || c.count() > 2*len(there)+minClaims {
		if c, err = s.rewriteNames(there, c, name); err != nil {
			return nil, nil, err
		}
	}
	missing := c.unclaimed(there)
	lines := s.linesFrom(missing)
	if len(lines) > 0 {
		if err := appendTo(s.namesPath(), lines, false); err != nil {
			return nil, nil, err
		}
	}
	ask := append(c.of, missing...)
	if bytes.Count(lines, []byte{'\n'}) < len(missing) { // one is not readable, and asked each time
		return ask, nil, nil
	}
	return ask, &voucher{Bytes: int64(len(c.lines)), Sum: crc32.ChecksumIEEE(c.lines)}, nil
}

// linesFrom are the claims of snapshots by what they say themselves. One that
// cannot be read claims nothing, and is asked again.
func (s *Store) linesFrom(ids []ID) (b []byte) {
	for _, id := range ids {
		if m, err := readMeta(s.Path("snapshots", string(id))); err == nil {
			b = append(b, claimLine(id, m.Name)...)
		}
	}
	return b
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
func (s *Store) rewriteNames(there []idKey, old *claims, name string) (*claims, error) {
	b := old.linesOf(there)
	if old == nil {
		ids := make([]ID, len(there))
		for i, key := range there {
			ids[i] = key.id()
		}
		b = s.linesFrom(ids)
	}
	return decodeClaims(b, name), derivedDocument.Write(s.namesPath(), b, 0o600)
}

package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"

	"github.com/cocoonv2/cocoon/internal/spelling"
)

// claims is the file cache/names (see names.go), and what it says of one name.
type claims struct {
	of      []ID   // who claims the name
	lines   []byte // that are whole, and hold
	torn    bool   // the last line has no end: its writer was killed
	voucher *voucher
}

// idKey is an ID in half of its length.
type idKey [16]byte

func keyOf[T ID | []byte](id T) (k idKey, ok bool) {
	n, err := hex.Decode(k[:], []byte(id))
	return k, err == nil && n == len(k)
}

func (k idKey) id() ID { return ID(hex.EncodeToString(k[:])) }

func claimLine(id ID, name string) []byte {
	body := fmt.Sprintf("%s %q", id, name)
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE([]byte(body)), body)
}

// decodeClaims answers nil when a line does not hold.
func decodeClaims(b []byte, name string) *claims { return decodeBehind(b, 0, name) }

// decodeBehind is decodeClaims where the first bytes, whole lines, are known to
// hold: those are only searched.
func decodeBehind(b []byte, known int64, name string) *claims {
	end := bytes.LastIndexByte(b, '\n') + 1
	c := &claims{lines: b[:end], torn: end < len(b)}
	want := strconv.AppendQuote(nil, name)
	c.of = claimantsOf(want, c.lines[:known])
	for rest := c.lines[known:]; len(rest) > 0; {
		line, behind, _ := bytes.Cut(rest, []byte{'\n'})
		rest = behind
		id, quoted, ok := parseClaim(line)
		if !ok {
			return nil
		}
		if bytes.Equal(quoted, want) {
			c.of = append(c.of, ID(id))
		}
	}
	return c
}

// claimantsOf searches lines that hold for a quoted name.
func claimantsOf(quoted, lines []byte) (ids []ID) {
	end := fmt.Appendf(nil, " %s\n", quoted)
	for {
		i := bytes.Index(lines, end)
		if i < 0 {
			return ids
		}
		if start := bytes.LastIndexByte(lines[:i], '\n') + 1; i == start+idEnd {
			ids = append(ids, ID(lines[start+sumEnd+1:i]))
		}
		lines = lines[i+len(end):]
	}
}

func (c *claims) count() int { return bytes.Count(c.lines, []byte{'\n'}) }

// Where the parts of a line end.
const sumEnd, idEnd = 8, 8 + 1 + 32

// parseClaim reads a line.
func parseClaim(line []byte) (id, quoted []byte, ok bool) {
	if len(line) < idEnd+len(` ""`) || line[sumEnd] != ' ' || line[idEnd] != ' ' || line[idEnd+1] != '"' || line[len(line)-1] != '"' {
		return nil, nil, false
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:sumEnd]); err != nil || binary.BigEndian.Uint32(sum[:]) != crc32.ChecksumIEEE(line[sumEnd+1:]) {
		return nil, nil, false
	}
	id, quoted = line[sumEnd+1:idEnd], line[idEnd+1:]
	return id, quoted, spelling.ID(id)
}

// claimant is who claims something by a line that holds.
func claimant(line []byte) idKey {
	key, _ := keyOf(line[sumEnd+1 : idEnd])
	return key
}

// known are those who claim any name, or to have none.
func (c *claims) known() map[idKey]struct{} {
	known := make(map[idKey]struct{}, c.count())
	for line := range bytes.Lines(c.lines) {
		known[claimant(line)] = struct{}{}
	}
	return known
}

// unclaimed are those of which the file says nothing.
func (c *claims) unclaimed(there []idKey) (ids []ID) {
	known := c.known()
	for _, key := range there {
		if _, ok := known[key]; !ok {
			ids = append(ids, key.id())
		}
	}
	return ids
}

// linesOf is what the file says of these snapshots; nil says nothing.
func (c *claims) linesOf(ids []idKey) (b []byte) {
	if c == nil {
		return nil
	}
	there := make(map[idKey]bool, len(ids))
	for _, key := range ids {
		there[key] = true
	}
	for line := range bytes.Lines(c.lines) {
		if there[claimant(line)] {
			b = append(b, line...)
		}
	}
	return b
}

// appendTo adds lines to a file that exists.
func appendTo(path string, lines []byte, lasting bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("claim a name: %w", err)
	}
	_, err = f.Write(lines)
	if err == nil && lasting {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("claim a name: %w", err)
	}
	return nil
}

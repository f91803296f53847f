// Package refs is the one derived index of a store: a row for each snapshot, for
// lists, and notes that say which snapshots share an image, for captures.
//
// The file is written as a whole under another name, renamed, and only appended to
// afterwards:
//
//	offset 0   "COCOREFS"
//	       8   u32 version
//	      12   u32 CRC-32C of the owner
//	      16   u64 bytes of the database
//	      24   u32 CRC-32C of the database
//	      28   u64 bytes of the notes that were written with it
//	      36   u32 CRC-32C of the 36 bytes before
//	      40   a bbolt database with one bucket, rows: key → value
//	       …   notes: u32 length, u32 CRC-32C, the note; more are appended
//
// A caller of [Open] reads most of the rows. A caller of [ReadNotes] must not wait
// for that: notes are read without the database.
//
// The file is trusted if its checksums hold and its owner, the identity of the
// store, is the caller's. A file that is lost, torn, flipped or another store's is
// no index, and the caller rebuilds it. Whether a row is up to date the caller
// decides, by what the row says of the files it was made from. So no write is an
// fsync.
//
// Invariants: bbolt trusts the pages of its file, so it is given a copy in memory
// of bytes whose checksum held, never the file: no damage becomes a panic, a fault
// or an endless loop. The file is never locked. Nothing is kept or removed because
// of what it says.
package refs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

const (
	magic       = "COCOREFS"
	version     = 1
	headerBytes = 40
	noteBytes   = 8 // before a note
)

// Limit bounds the file, bytes: a million snapshots.
const Limit = 2 << 30

// ErrForeign is in the error of Open, with failure.Damaged, if another version of the
// program or another store made the file: no damage worth a warning.
var ErrForeign = errors.New("it is not of this program and store")

var (
	bucketRows = []byte("rows")
	file       = durable.Document{Name: "refs.db", Limit: Limit}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Row of the index. The value is the caller's.
type Row struct {
	Key   string
	Value []byte
}

// Index is a file that was found whole. Close it.
type Index struct {
	db *bolt.DB
	tx *bolt.Tx
}

// Open reads the index of an owner. failure.Damaged when it is not to be trusted,
// os.ErrNotExist when there is none.
func Open(path, owner string) (*Index, error) {
	im, err := load(path, owner)
	if err != nil {
		return nil, err
	}
	x := &Index{}
	x.db, err = bolt.Open("refs", 0, &bolt.Options{ReadOnly: true, NoStatistics: true, OpenFile: im.open})
	if err != nil {
		return nil, damaged(path, err)
	}
	if x.tx, err = x.db.Begin(false); err == nil && x.tx.Bucket(bucketRows) == nil {
		err = fmt.Errorf("it has no rows")
	}
	if err != nil {
		x.Close()
		return nil, damaged(path, err)
	}
	return x, nil
}

func damaged(path string, why error) error {
	return failure.New(failure.Damaged, "index %s: %w", path, why)
}

// Close ends the use of all values; nil is no index.
func (x *Index) Close() {
	if x == nil {
		return
	}
	if x.tx != nil {
		_ = x.tx.Rollback() // of what was only read
	}
	_ = x.db.Close()
}

// Rows yields the rows in the order of their keys. Keys and values are valid until
// Close.
func (x *Index) Rows() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		if x == nil {
			return
		}
		c := x.tx.Bucket(bucketRows).Cursor()
		for k, v := c.First(); k != nil && yield(k, v); k, v = c.Next() {
		}
	}
}

// Get gives the value of a key, nil for none.
func (x *Index) Get(key string) []byte {
	if x == nil {
		return nil
	}
	return x.tx.Bucket(bucketRows).Get([]byte(key))
}

// Bytes is how much the rows occupy at most.
func (x *Index) Bytes() int {
	if x == nil {
		return 0
	}
	return int(x.tx.Size())
}

// Write makes the file anew of rows that are sorted by their keys, and a note.
func Write(path, owner string, rows []Row, note []byte) error {
	db, err := build(rows)
	if err != nil {
		return fmt.Errorf("make index %s: %w", path, err)
	}
	notes := appendNote(nil, note)
	whole := append(append(header(owner, db, len(notes)), db...), notes...)
	durable.Step("refs.rebuilt")
	return file.WriteLoose(path, whole, 0o600)
}

func header(owner string, db []byte, notes int) []byte {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, checksum([]byte(owner)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(db)))
	b = binary.LittleEndian.AppendUint32(b, checksum(db))
	b = binary.LittleEndian.AppendUint64(b, uint64(notes))
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

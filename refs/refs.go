// Package refs is the index of who holds which blob, in bbolt.
//
// It is derived from manifests and records and never trusted for a removal: if
// lost, damaged or stale, it is rebuilt. The schema:
//
//	meta        version → 1, generation → u64, one more with each change
//	holders     <kind>/<id> → entry: name, digests, summary
//	digests     <digest> 0x00 <kind>/<id> → name
//
// Every value ends with the CRC-32C of its key's length, its key and the value
// itself.
//
// Invariants: the file is opened for one transaction and closed again, with a
// time-out, since bbolt locks it for as long as it is open; no callback runs
// inside a transaction; no damage of the file becomes a panic.
package refs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// Kind of a holder.
type Kind string

// Holder is what holds blobs: a snapshot, a VM, a pin, an image record.
type Holder struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (h Holder) key() []byte { return []byte(string(h.Kind) + "/" + h.ID) }

// Entry is a holder with everything it holds. Summary is opaque here.
type Entry struct {
	Holder  Holder          `json:"holder"`
	Digests []digest.Digest `json:"digests"`
	Summary []byte          `json:"summary,omitempty"`
}

// Options of New.
type Options struct {
	Timeout time.Duration // to wait for another process; 0 is two seconds
}

// DB is the index file; it is not open between calls.
type DB struct {
	path    string
	timeout time.Duration
}

// New names an index file, which is created on the first write.
func New(path string, o Options) *DB {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	return &DB{path, o.Timeout}
}

const schemaVersion = 2 // 1: the checksums did not cover the keys

var (
	bucketMeta    = []byte("meta")
	bucketHolders = []byte("holders")
	bucketDigests = []byte("digests")
	keyVersion    = []byte("version")
	keyGeneration = []byte("generation")
)

// checksum of a value under its key: a key has none of its own.
func checksum(key, body []byte) uint32 {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sum.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(key))))
	sum.Write(key)
	sum.Write(body)
	return sum.Sum32()
}

// entryLimit bounds a value, bytes: a holder of 100,000 digests takes half.
const entryLimit = 16 << 20

// put writes a value with its checksum, open checks and removes that.
func put(b *bolt.Bucket, key, body []byte) error { return b.Put(key, seal(key, body)) }

func seal(key, body []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), checksum(key, body))
}

func open(key, v []byte) ([]byte, error) {
	if len(v) < 4 || len(v) > entryLimit { // a length may be damaged, and what follows the file is not ours
		return nil, failure.New(failure.Damaged, "refs: value of %d bytes", len(v))
	}
	body := v[:len(v)-4]
	if checksum(key, body) != binary.LittleEndian.Uint32(v[len(v)-4:]) {
		return nil, failure.New(failure.Damaged, "refs: a value fails its checksum")
	}
	return bytes.Clone(body), nil
}

// tx is a transaction, and the file's pages as they were before it.
type tx struct {
	*bolt.Tx
	pages *pages
}

// transact opens the file for one transaction. bbolt trusts the pages of its
// file: what damaged pages make it do is caught here, bad addresses included,
// unless openSound has refused the file.
func (db *DB) transact(ctx context.Context, path string, write bool, f func(*tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = failure.New(failure.Damaged, "refs: %s is damaged: %v", path, r)
		}
	}()
	if err := checkSize(path, write); err != nil {
		return err
	}
	var p *pages
	opened := func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, p, err = openSound(path, flag, mode, db.timeout)
		return f, err
	}
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: db.timeout, ReadOnly: !write, FreelistType: bolt.FreelistMapType, OpenFile: opened})
	if err != nil {
		return classify(path, err)
	}
	defer func() {
		if cerr := b.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("refs: close: %w", cerr)
		}
	}()
	if write {
		return classify(path, b.Update(func(bt *bolt.Tx) error {
			if err := prepare(bt); err != nil {
				return err
			}
			return f(&tx{bt, p})
		}))
	}
	return classify(path, b.View(func(bt *bolt.Tx) error {
		if err := checkSchema(bt); err != nil {
			return err
		}
		return f(&tx{bt, p})
	}))
}

// checkSize refuses a file that is too short for the pages its meta names:
// reading beyond the end of a mapping is a fault, not an error.
func checkSize(path string, write bool) error {
	fi, err := os.Stat(path)
	if err != nil || (write && fi.Size() == 0) {
		return nil // bbolt makes it, or says what is wrong
	}
	if fi.Size()%4096 != 0 || fi.Size() < 4*4096 {
		return failure.New(failure.Damaged, "refs: %s has %d bytes", path, fi.Size())
	}
	return nil
}

func classify(path string, err error) error {
	switch {
	case err == nil, errors.Is(err, failure.Damaged):
		return err
	case errors.Is(err, bolterrors.ErrTimeout):
		return failure.New(failure.Busy, "refs: %s is in use by another process", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrIncompatibleValue), errors.Is(err, os.ErrNotExist):
		return failure.New(failure.Damaged, "refs: %s: %w", path, err)
	case strings.Contains(err.Error(), unix.ENOSPC.Error()), strings.Contains(err.Error(), unix.EDQUOT.Error()):
		return failure.New(failure.NoSpace, "refs: %w", err) // bbolt keeps the text of it only
	}
	return fmt.Errorf("refs: %w", err)
}

func prepare(tx *bolt.Tx) error {
	if tx.Bucket(bucketMeta) != nil {
		return checkSchema(tx)
	}
	for _, name := range [][]byte{bucketMeta, bucketHolders, bucketDigests} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return put(tx.Bucket(bucketMeta), keyVersion, binary.LittleEndian.AppendUint64(nil, schemaVersion))
}

func checkSchema(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketHolders, bucketDigests} {
		if tx.Bucket(name) == nil {
			return failure.New(failure.Damaged, "refs: no bucket %s", name)
		}
	}
	v, err := readNumber(tx, keyVersion)
	if err == nil && v != schemaVersion {
		err = failure.New(failure.Damaged, "refs: schema %d", v)
	}
	return err
}

func readNumber(tx *bolt.Tx, key []byte) (uint64, error) {
	raw := tx.Bucket(bucketMeta).Get(key)
	if raw == nil {
		return 0, nil
	}
	b, err := open(key, raw)
	if err == nil && len(b) != 8 {
		err = failure.New(failure.Damaged, "refs: %s has %d bytes", key, len(b))
	}
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func bump(tx *tx) error {
	n, err := readNumber(tx.Tx, keyGeneration)
	if err == nil {
		err = tx.pages.fits(bucketMeta, keyGeneration)
	}
	if err != nil {
		return err
	}
	return put(tx.Bucket(bucketMeta), keyGeneration, binary.LittleEndian.AppendUint64(nil, n+1))
}

func digestKey(d digest.Digest, h Holder) []byte {
	return append(append([]byte(d), 0), h.key()...)
}

// Record adds entries, all or none, each replacing what its holder held before.
func (db *DB) Record(ctx context.Context, entries ...Entry) error {
	return db.transact(ctx, db.path, true, func(tx *tx) error {
		for _, e := range entries {
			if err := errors.Join(forget(tx, e.Holder), e.fit(tx)); err != nil {
				return err
			}
			if err := record(tx, e); err != nil {
				return err
			}
		}
		return bump(tx)
	})
}

func record(tx *tx, e Entry) error {
	if err := recordHolder(tx, e); err != nil {
		return err
	}
	for _, d := range e.Digests {
		if err := recordDigest(tx, d, e.Holder); err != nil {
			return err
		}
	}
	return nil
}

func recordHolder(tx *tx, e Entry) error {
	v, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return put(tx.Bucket(bucketHolders), e.Holder.key(), v)
}

func recordDigest(tx *tx, d digest.Digest, h Holder) error {
	return put(tx.Bucket(bucketDigests), digestKey(d, h), []byte(h.Name))
}

// fullPages is the fill ratio for keys written in order; bbolt's own, one half,
// suits random order.
const fullPages = 0.9

// fill records entries into an empty index, each bucket in the order of its keys:
// in random order the pages would be half empty and each touched many times.
func fill(tx *tx, all []Entry) error {
	slices.SortStableFunc(all, func(a, b Entry) int { return bytes.Compare(a.Holder.key(), b.Holder.key()) })
	type edge struct {
		digest digest.Digest
		holder int // in all
	}
	var edges []edge
	tx.Bucket(bucketHolders).FillPercent = fullPages
	for i, e := range all {
		if err := recordHolder(tx, e); err != nil {
			return err
		}
		for _, d := range e.Digests {
			edges = append(edges, edge{d, i})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(strings.Compare(string(a.digest), string(b.digest)), a.holder-b.holder)
	})
	tx.Bucket(bucketDigests).FillPercent = fullPages
	for _, e := range edges {
		if err := recordDigest(tx, e.digest, all[e.holder].Holder); err != nil {
			return err
		}
	}
	return nil
}

// Forget drops a holder and all its edges; an unknown one is no error.
func (db *DB) Forget(ctx context.Context, h Holder) error {
	return db.transact(ctx, db.path, true, func(tx *tx) error {
		return errors.Join(forget(tx, h), bump(tx))
	})
}

// fit checks that all of an entry can be written.
func (e Entry) fit(tx *tx) error {
	if err := tx.pages.fits(bucketHolders, e.Holder.key()); err != nil {
		return err
	}
	for _, d := range e.Digests {
		if err := tx.pages.fits(bucketDigests, digestKey(d, e.Holder)); err != nil {
			return err
		}
	}
	return nil
}

func forget(tx *tx, h Holder) error {
	raw := tx.Bucket(bucketHolders).Get(h.key())
	if raw == nil {
		return nil
	}
	e, err := decode(h.key(), raw)
	if err != nil {
		return err
	}
	if err := (Entry{Holder: h, Digests: e.Digests}).fit(tx); err != nil {
		return err
	}
	for _, d := range e.Digests {
		if err := tx.Bucket(bucketDigests).Delete(digestKey(d, h)); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketHolders).Delete(h.key())
}

func decode(key, raw []byte) (Entry, error) {
	var e Entry
	b, err := open(key, raw)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, failure.New(failure.Damaged, "refs: entry: %w", err)
	}
	return e, nil
}

// Holders returns the holders of a digest.
func (db *DB) Holders(ctx context.Context, d digest.Digest) ([]Holder, error) {
	var out []Holder
	err := db.transact(ctx, db.path, false, func(tx *tx) error {
		prefix := append([]byte(d), 0)
		c := tx.Bucket(bucketDigests).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			name, err := open(k, v)
			if err != nil {
				return err
			}
			kind, id, _ := bytes.Cut(k[len(prefix):], []byte("/"))
			out = append(out, Holder{Kind(kind), string(id), string(name)})
		}
		return nil
	})
	return out, err
}

// Generation counts the changes of the index.
func (db *DB) Generation(ctx context.Context) (n uint64, err error) {
	err = db.transact(ctx, db.path, false, func(tx *tx) error {
		n, err = readNumber(tx.Tx, keyGeneration)
		return err
	})
	return n, err
}

// Rebuild writes a new index beside the old one and renames it over. Only one
// process does so at a time: another waits for it.
func (db *DB) Rebuild(ctx context.Context, entries iter.Seq2[Entry, error]) error {
	lock, err := filelock.Exclusive(ctx, db.path+".lock")
	if err != nil {
		return err
	}
	return errors.Join(db.rebuild(ctx, entries), lock.Unlock())
}

func (db *DB) rebuild(ctx context.Context, entries iter.Seq2[Entry, error]) error {
	tmp := db.path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var all []Entry
	for e, err := range entries {
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	err := db.transact(ctx, tmp, true, func(tx *tx) error {
		return errors.Join(fill(tx, all), bump(tx))
	})
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	durable.Step("refs.rebuilt")
	if err := durable.Replace(tmp, db.path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(db.path))
}

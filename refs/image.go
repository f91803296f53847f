package refs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// image is a database in memory, in a file that has no name.
type image struct{ f *os.File }

// open is bolt.Options.OpenFile.
func (im *image) open(string, int, os.FileMode) (*os.File, error) { return im.f, nil }

func newImage() (*image, error) {
	fd, err := unix.MemfdCreate("refs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make index in memory: %w", err)
	}
	return &image{os.NewFile(uintptr(fd), "refs")}, nil
}

// load copies the database of a file to memory, if all that is said of it holds.
func load(path, owner string) (*image, error) {
	f, h, err := openIndex(path, owner, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	im, err := newImage()
	if err != nil {
		return nil, err
	}
	if err := im.fill(f, h); err != nil {
		return nil, errors.Join(damaged(path, err), im.f.Close())
	}
	return im, nil
}

// head is what a header says.
type head struct {
	database, notes int64 // bytes
	sum             uint32
}

// openIndex opens a file whose header holds. It opens neither what a link leads to nor
// what makes it wait.
func openIndex(path, owner string, flags int) (*os.File, head, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, head{}, damaged(path, errors.New("a link is no index"))
	}
	if err != nil {
		return nil, head{}, err
	}
	h, err := readHeader(f, owner)
	if err != nil {
		return nil, h, errors.Join(damaged(path, err), f.Close())
	}
	return f, h, nil
}

func readHeader(f *os.File, owner string) (h head, err error) {
	fi, err := f.Stat()
	if err != nil {
		return h, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > Limit {
		return h, fmt.Errorf("%s of %d bytes", fi.Mode(), fi.Size())
	}
	var b [headerBytes]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return h, err
	}
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	size, notes, left := u64(b[16:]), u64(b[28:]), uint64(fi.Size()-headerBytes)
	switch {
	case !bytes.HasPrefix(b[:], []byte(magic)):
		return h, fmt.Errorf("%w: it has no header", ErrForeign)
	case u32(b[headerBytes-4:]) != checksum(b[:headerBytes-4]):
		return h, errors.New("its header fails its checksum")
	case u32(b[8:]) != version:
		return h, fmt.Errorf("%w: it has version %d", ErrForeign, u32(b[8:]))
	case u32(b[12:]) != checksum([]byte(owner)):
		return h, fmt.Errorf("%w: it is another store's", ErrForeign)
	case size == 0 || size > left || notes > left-size:
		return h, errors.New("it ends too soon")
	}
	return head{int64(size), int64(notes), u32(b[24:])}, nil
}

// fill copies, and checks what it has copied.
func (im *image) fill(f *os.File, of head) error {
	h := crc32.New(castagnoli)
	buf := make([]byte, 256<<10) // small enough to be still in a cache when it is written
	for at := int64(0); at < of.database; {
		b := buf[:min(int64(len(buf)), of.database-at)]
		if _, err := f.ReadAt(b, headerBytes+at); err != nil {
			return err
		}
		_, _ = h.Write(b)
		if _, err := im.f.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	if h.Sum32() != of.sum {
		return errors.New("it fails its checksum")
	}
	return nil
}

// fullPages is how much of a page is used of what is written in the order of its
// keys; bbolt's own half is for what comes at random.
const fullPages = 0.95

// build makes a database of rows.
func build(rows []Row) ([]byte, error) {
	im, err := newImage()
	if err != nil {
		return nil, err
	}
	total := 1 << 20
	for _, r := range rows {
		total += 2 * (len(r.Key) + len(r.Value))
	}
	db, err := bolt.Open("refs", 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, NoStatistics: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: total, OpenFile: im.open,
	})
	if err != nil {
		return nil, err
	}
	db.AllocSize = 1 << 16 // else it grows by 16 MiB at once
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(bucketRows)
		if err != nil {
			return err
		}
		b.FillPercent = fullPages
		for _, r := range rows {
			if err := b.Put([]byte(r.Key), r.Value); err != nil {
				return err
			}
		}
		return nil
	})
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.NewSectionReader(im.f, 0, Limit))
	}
	return slices.Clip(data), errors.Join(err, db.Close())
}

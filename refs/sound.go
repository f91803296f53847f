package refs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// bbolt believes what its file says of pages. Most of what a damaged one makes
// it do is caught (transact), but a branch that leads back to itself ends the
// stack, and a list of free pages that is absurdly long ends the memory, and
// neither can be caught. So branches and that list are looked at before bbolt
// sees the file: every page is led to once, and none is free. Leaves, of which
// there are twenty for each branch, are not read: they lead nowhere.

// Layout of the file, bbolt version 2, little-endian. A page begins with id u64,
// kind u16, count u16, overflow u32; then come count elements.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	headBytes   = 16
	metaBytes   = 64
	noFreelist  = 1<<64 - 1

	branchPage   = 1    // elements {offset of the key, its length u32, page u64}
	leafPage     = 2    // elements {flags, offset of the key, its length, length of the value u32}
	freelistPage = 0x10 // numbers u64; the first is their count where that is 65535
	elementBytes = 16
	bucketFlag   = 1 // the value is {root page, sequence u64}; with root 0 a page follows
	bucketBytes  = 16
)

// openSound opens and locks the index for bbolt, if it is sound.
func openSound(path string, flag int, mode os.FileMode, timeout time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if flag&os.O_RDWR != 0 {
		how = unix.LOCK_EX
	}
	if err := lock(f, how, timeout); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := sound(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lock takes the lock that bbolt takes, so that it finds it taken by itself.
func lock(f *os.File, how int, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if time.Now().After(end) {
			return bolterrors.ErrTimeout
		}
	}
}

// sound refuses an index whose pages are no tree.
func sound(f *os.File) error {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 { // an empty one is made by bbolt
		return err
	}
	p := &pages{f: f}
	if err := p.readMeta(uint64(fi.Size())); err != nil || p.bytes == 0 {
		return err
	}
	if err := p.free(); err != nil {
		return err
	}
	roots, err := p.tree(p.root, true)
	for _, root := range roots {
		if err == nil {
			_, err = p.tree(root, false)
		}
	}
	return err
}

// pages is a file of bbolt.
type pages struct {
	f              *os.File
	bytes, count   uint64 // of a page; of pages that can be in use
	root, freelist uint64
	used           []bool
}

// readMeta takes the last of the two meta pages that is whole. With none, bytes
// stays 0, and bbolt says what is wrong.
func (p *pages) readMeta(fileBytes uint64) error {
	le := binary.LittleEndian
	var last []byte
	for i := range int64(2) {
		m := make([]byte, metaBytes)
		if err := p.at(m, i*int64(os.Getpagesize())+headBytes); err != nil {
			return err
		}
		sum := fnv.New64a()
		sum.Write(m[:metaBytes-8])
		if le.Uint32(m) == boltMagic && le.Uint32(m[4:]) == boltVersion && le.Uint64(m[56:]) == sum.Sum64() && (last == nil || le.Uint64(m[48:]) > le.Uint64(last[48:])) {
			last = m
		}
	}
	if last == nil || le.Uint32(last[8:]) < headBytes {
		return nil
	}
	p.bytes, p.root, p.freelist = uint64(le.Uint32(last[8:])), le.Uint64(last[16:]), le.Uint64(last[32:])
	p.count = min(le.Uint64(last[40:]), fileBytes/p.bytes)
	p.used = make([]bool, p.count)
	return nil
}

func (p *pages) at(b []byte, off int64) error {
	if _, err := p.f.ReadAt(b, off); err != nil {
		return failure.New(failure.Damaged, "refs: read at %d: %w", off, err)
	}
	return nil
}

// claim notes that a page is used.
func (p *pages) claim(id uint64) error {
	switch {
	case id < 2 || id >= p.count:
		return broken(id, "there are %d", p.count)
	case p.used[id]:
		return broken(id, "it is used twice")
	}
	p.used[id] = true
	return nil
}

// read claims a page and gives its bytes, with those that it overflows into.
func (p *pages) read(id uint64) (page []byte, kind uint16, err error) {
	if err := p.claim(id); err != nil {
		return nil, 0, err
	}
	page = make([]byte, p.bytes)
	if err := p.at(page, int64(id*p.bytes)); err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	more := uint64(le.Uint32(page[12:]))
	if le.Uint64(page) != id || more >= p.count-id {
		return nil, 0, broken(id, "it says that it is %d and %d more", le.Uint64(page), more)
	}
	for i := range more {
		if err := p.claim(id + 1 + i); err != nil {
			return nil, 0, err
		}
	}
	if more > 0 {
		page = make([]byte, (more+1)*p.bytes)
		err = p.at(page, int64(id*p.bytes))
	}
	return page, le.Uint16(page[8:]), err
}

// free notes the pages that are free.
func (p *pages) free() error {
	if p.freelist == noFreelist {
		return nil
	}
	page, kind, err := p.read(p.freelist)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	list, n := page[headBytes:], uint64(le.Uint16(page[10:]))
	if n == 0xffff {
		list, n = list[8:], le.Uint64(list)
	}
	if kind != freelistPage || n > uint64(len(list))/8 {
		return broken(p.freelist, "kind %d, %d free pages", kind, n)
	}
	for i := range n {
		if err := p.claim(le.Uint64(list[8*i:])); err != nil {
			return err
		}
	}
	return nil
}

// tree follows every branch from the root, level by level: all pages of a level
// are of one kind. Of the tree of buckets it gives their roots.
func (p *pages) tree(root uint64, ofBuckets bool) (roots []uint64, err error) {
	for level := []uint64{root}; ; {
		first, kind, err := p.read(level[0])
		if err != nil {
			return nil, err
		}
		leadsTo := childrenOf
		switch {
		case kind == leafPage && !ofBuckets:
			for _, id := range level[1:] {
				err = errors.Join(err, p.claim(id))
			}
			return nil, err
		case kind == leafPage:
			leadsTo = bucketsOf
		case kind != branchPage:
			return nil, broken(level[0], "kind %d", kind)
		}
		next, err := leadsTo(level[0], first)
		for _, id := range level[1:] {
			if err != nil {
				break
			}
			next, err = p.follow(id, kind, leadsTo, next)
		}
		if err != nil || kind == leafPage {
			return next, err
		}
		level = next
	}
}

// follow appends what a page leads to, which must be of that kind.
func (p *pages) follow(id uint64, want uint16, leadsTo func(uint64, []byte) ([]uint64, error), to []uint64) ([]uint64, error) {
	page, kind, err := p.read(id)
	if err == nil && kind != want {
		err = broken(id, "kind %d beside kind %d", kind, want)
	}
	if err != nil {
		return nil, err
	}
	more, err := leadsTo(id, page)
	return append(to, more...), err
}

// elements gives those of a page, each with all that follows it.
func elements(id uint64, page []byte) (all [][]byte, err error) {
	n := int(binary.LittleEndian.Uint16(page[10:]))
	if headBytes+n*elementBytes > len(page) {
		return nil, broken(id, "%d elements", n)
	}
	for i := range n {
		all = append(all, page[headBytes+i*elementBytes:])
	}
	return all, nil
}

// childrenOf gives the pages that a branch leads to.
func childrenOf(id uint64, page []byte) (children []uint64, err error) {
	all, err := elements(id, page)
	if err == nil && len(all) == 0 {
		err = broken(id, "it leads nowhere")
	}
	for _, e := range all {
		children = append(children, binary.LittleEndian.Uint64(e[8:]))
	}
	return children, err
}

// bucketsOf gives the roots of the buckets in a leaf. The pages of small ones
// stand in it.
func bucketsOf(id uint64, page []byte) (roots []uint64, err error) {
	le := binary.LittleEndian
	all, err := elements(id, page)
	for i, e := range all {
		from := uint64(le.Uint32(e[4:])) + uint64(le.Uint32(e[8:]))
		end := from + uint64(le.Uint32(e[12:]))
		if le.Uint32(e)&bucketFlag == 0 || end > uint64(len(e)) || end-from < bucketBytes {
			return nil, broken(id, "element %d is no bucket", i)
		}
		if root := le.Uint64(e[from:]); root != 0 {
			roots = append(roots, root)
		}
	}
	return roots, err
}

func broken(id uint64, format string, args ...any) error {
	return failure.New(failure.Damaged, "refs: page %d: %w", id, fmt.Errorf(format, args...))
}

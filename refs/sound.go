package refs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"os"
	"sort"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// bbolt trusts the pages of its file. Most of what a damaged file makes it do can
// be caught (transact), but a branch that leads back to itself overflows the
// stack, and an absurdly long list of free pages exhausts memory, and neither can
// be caught. So branches and that list are checked before bbolt sees the file:
// every page is referenced once, and none of them is free. Leaves, of which there
// are twenty for each branch, lead nowhere and are not read. But a writer
// allocates what a leaf says it holds, and frees what it says it occupies,
// possibly gigabytes: so a write checks its leaves first (fits).

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
func openSound(path string, flag int, mode os.FileMode, timeout time.Duration) (*os.File, *pages, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, nil, err
	}
	how := unix.LOCK_SH
	if flag&os.O_RDWR != 0 {
		how = unix.LOCK_EX
	}
	p := &pages{f: f, trees: map[string][]leaf{}, held: map[uint64]bool{}}
	if err := lock(f, how, timeout); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if err := p.sound(); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, p, nil
}

// lock takes the lock that bbolt takes, so that bbolt finds it held by this
// process.
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

// pages is a file of bbolt.
type pages struct {
	f              *os.File
	bytes, count   uint64 // of a page; of pages that can be in use
	root, freelist uint64
	used           []bool
	trees          map[string][]leaf // by bucket, in the order of keys
	held           map[uint64]bool   // leaves that were looked at
}

// leaf is a page and the first key that may be in it.
type leaf struct {
	page  uint64
	first []byte
}

// sound refuses an index whose pages are no tree.
func (p *pages) sound() error {
	fi, err := p.f.Stat()
	if err != nil || fi.Size() == 0 { // an empty one is made by bbolt
		return err
	}
	if err := p.readMeta(uint64(fi.Size())); err != nil || p.bytes == 0 {
		return err
	}
	if err := p.free(); err != nil {
		return err
	}
	top, err := p.leavesOf(p.root)
	if err != nil {
		return err
	}
	for _, l := range top {
		if err := p.buckets(l.page); err != nil {
			return err
		}
	}
	return nil
}

// readMeta takes the later of the two meta pages that is whole. With none, bytes
// stays 0, and bbolt reports the error.
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

// load returns the bytes of a page, including its overflow pages.
func (p *pages) load(id uint64) (page []byte, kind uint16, err error) {
	page = make([]byte, p.bytes)
	if err := p.at(page, int64(id*p.bytes)); err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	more := uint64(le.Uint32(page[12:]))
	if le.Uint64(page) != id || more >= p.count-id {
		return nil, 0, broken(id, "it says that it is %d and %d more", le.Uint64(page), more)
	}
	if more > 0 {
		page = make([]byte, (more+1)*p.bytes)
		err = p.at(page, int64(id*p.bytes))
	}
	return page, le.Uint16(page[8:]), err
}

// read claims and loads a page.
func (p *pages) read(id uint64) (page []byte, kind uint16, err error) {
	if err := p.claim(id); err != nil {
		return nil, 0, err
	}
	if page, kind, err = p.load(id); err != nil {
		return nil, 0, err
	}
	return page, kind, p.claimMore(id, page)
}

// claimMore claims what a page overflows into.
func (p *pages) claimMore(id uint64, page []byte) error {
	for i := uint64(1); i < uint64(len(page))/p.bytes; i++ {
		if err := p.claim(id + i); err != nil {
			return err
		}
	}
	return nil
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

// leavesOf follows every branch from a root, level by level: all pages of a level
// are of one kind. Of the leaves only the first is read.
func (p *pages) leavesOf(root uint64) ([]leaf, error) {
	for level := []leaf{{page: root}}; ; {
		page, kind, err := p.read(level[0].page)
		if err != nil {
			return nil, err
		}
		if kind == leafPage {
			p.held[level[0].page] = true
			for _, l := range level[1:] {
				err = errors.Join(err, p.claim(l.page))
			}
			return level, errors.Join(err, holds(level[0].page, page))
		}
		var below []leaf
		for i, l := range level {
			if i > 0 {
				page, kind, err = p.read(l.page)
			}
			if err == nil && kind != branchPage {
				err = broken(l.page, "kind %d", kind)
			}
			if err == nil {
				below, err = appendChildren(below, l.page, page)
			}
			if err != nil {
				return nil, err
			}
		}
		level = below
	}
}

// elements gives those of a page, each with all that follows it.
func elements(id uint64, page []byte) (iter.Seq2[int, []byte], error) {
	n := int(binary.LittleEndian.Uint16(page[10:]))
	if headBytes+n*elementBytes > len(page) {
		return nil, broken(id, "%d elements", n)
	}
	return func(yield func(int, []byte) bool) {
		for i := range n {
			if !yield(i, page[headBytes+i*elementBytes:]) {
				return
			}
		}
	}, nil
}

// appendChildren appends what a branch leads to.
func appendChildren(to []leaf, id uint64, page []byte) ([]leaf, error) {
	all, err := elements(id, page)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	before := len(to)
	for i, e := range all {
		from := uint64(le.Uint32(e))
		end := from + uint64(le.Uint32(e[4:]))
		if end > uint64(len(e)) {
			return nil, broken(id, "key %d ends outside of it", i)
		}
		to = append(to, leaf{le.Uint64(e[8:]), e[from:end]})
	}
	if len(to) == before {
		return nil, broken(id, "it leads nowhere")
	}
	return to, nil
}

// holds refuses a leaf whose contents do not match its header.
func holds(id uint64, page []byte) error {
	if len(page) < headBytes || binary.LittleEndian.Uint16(page[8:]) != leafPage {
		return broken(id, "it is no leaf")
	}
	all, err := elements(id, page)
	if err != nil {
		return err
	}
	for i, e := range all {
		if _, _, end := partsOf(e); end > uint64(len(e)) {
			return broken(id, "element %d ends outside of it", i)
		}
	}
	return nil
}

// partsOf returns where the key and the value of a leaf element begin, and where
// the value ends.
func partsOf(e []byte) (key, value, end uint64) {
	le := binary.LittleEndian
	key = uint64(le.Uint32(e[4:]))
	value = key + uint64(le.Uint32(e[8:]))
	return key, value, value + uint64(le.Uint32(e[12:]))
}

// buckets checks the trees of the buckets in a leaf. Small buckets are stored
// inline.
func (p *pages) buckets(id uint64) error {
	page, _, err := p.load(id)
	if err == nil {
		err = holds(id, page)
	}
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	all, err := elements(id, page)
	if err != nil {
		return err
	}
	for i, e := range all {
		key, value, end := partsOf(e)
		if le.Uint32(e)&bucketFlag == 0 || end-value < bucketBytes {
			return broken(id, "element %d is no bucket", i)
		}
		root := le.Uint64(e[value:])
		if root == 0 {
			err = holds(id, e[value+bucketBytes:end])
		} else {
			p.trees[string(e[key:value])], err = p.leavesOf(root)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fits refuses to write a key of a bucket if one of the leaves that this may
// change, its own and its neighbours, is inconsistent.
func (p *pages) fits(bucket, key []byte) error {
	leaves := p.trees[string(bucket)] // none of a bucket without pages
	at := sort.Search(len(leaves), func(i int) bool { return bytes.Compare(leaves[i].first, key) > 0 }) - 1
	for i := max(at-1, 0); i < min(at+2, len(leaves)); i++ {
		if id := leaves[i].page; !p.held[id] {
			page, _, err := p.load(id)
			if err == nil {
				err = errors.Join(holds(id, page), p.claimMore(id, page))
			}
			if err != nil {
				return err
			}
			p.held[id] = true
		}
	}
	return nil
}

func broken(id uint64, format string, args ...any) error {
	return failure.New(failure.Damaged, "refs: page %d: %w", id, fmt.Errorf(format, args...))
}

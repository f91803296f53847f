package packer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

const frameRawBytes = pack.FramePages * pack.PageSize

// frame is a buffer of pages and its compressed form. Frames are numbered as
// they are begun and written in the order in which they were full.
type frame struct {
	number int
	order  int
	pages  int
	hashes *[pack.FramePages]pack.Hash
	stored []byte
	data   [frameRawBytes]byte
}

// packer writes compressed frames to packs in their order. Frames arrive in
// any order; whoever delivers the one that is due writes it and all that wait
// behind it, so no goroutine waits for another's compression. The number of
// frame buffers bounds what can wait.
type packer struct {
	ctx    context.Context
	sink   Sink
	key    *keyring.Key // nil: plain packs
	random io.Reader    // salts of encrypted packs
	free   chan *frame

	mu      sync.Mutex     // guards waiting, next, writing
	waiting map[int]*frame // by order
	next    int
	writing bool // one goroutine writes; what follows belongs to it

	current     *openPack
	packs       []digest.Digest
	starts      []frameStart // by number
	storedBytes int64

	commits   sync.WaitGroup
	slots     chan struct{} // commits at once
	commitMu  sync.Mutex
	commitErr error
}

// frameStart is where a frame of this Writer ended up.
type frameStart struct {
	pack  uint32 // number in packer.packs
	first uint32 // page number within it
}

// openPack is a pack being written.
type openPack struct {
	file  PackFile
	sum   hash.Hash
	bytes int64
	index *pack.Index
}

const commitsAtOnce = 2

func newPacker(ctx context.Context, sink Sink, key *keyring.Key, frames int) *packer {
	p := &packer{
		ctx: ctx, sink: sink, key: key, random: rand.Reader, waiting: map[int]*frame{},
		free: make(chan *frame, frames), slots: make(chan struct{}, commitsAtOnce),
	}
	for range frames {
		p.free <- nil // allocated when first needed
	}
	return p
}

// freeFrame waits for a frame buffer that is not in use.
func (p *packer) freeFrame() (*frame, error) {
	select {
	case f := <-p.free:
		if f == nil {
			f = new(frame)
		}
		return f, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// deliver takes a compressed frame over.
func (p *packer) deliver(f *frame) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[f.order] = f
	if p.writing {
		return nil
	}
	p.writing = true
	defer func() { p.writing = false }()
	for {
		f := p.waiting[p.next]
		if f == nil {
			return nil
		}
		delete(p.waiting, p.next)
		p.next++
		p.mu.Unlock()
		err := p.ctx.Err()
		if err == nil {
			err = p.write(f)
		}
		p.free <- f
		p.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// write appends a frame to the open pack, beginning a new one when it would
// grow past MaxPackBytes.
func (p *packer) write(f *frame) error {
	if err := p.commitError(); err != nil {
		return err
	}
	if len(f.stored) > pack.MaxFrameBytes {
		return fmt.Errorf("write frame %d: %d pages became %d bytes", f.number, f.pages, len(f.stored))
	}
	if c := p.current; c != nil && !c.fits(f) {
		if err := p.closePack(); err != nil {
			return err
		}
	}
	if p.current == nil {
		if err := p.openPack(); err != nil {
			return err
		}
	}
	c := p.current
	first := len(c.index.Hashes)
	border, sealed := c.index.CloseFrame(f.stored, len(c.index.Frames), f.pages)
	f.stored = sealed
	c.index.Frames = append(c.index.Frames, pack.Frame{Offset: c.bytes, Bytes: uint32(len(border) + len(sealed)), First: uint32(first), Pages: uint32(f.pages)})
	c.index.Hashes = append(c.index.Hashes, f.hashes[:f.pages]...)
	if more := f.number + 1 - len(p.starts); more > 0 {
		p.starts = append(p.starts, make([]frameStart, more)...)
	}
	p.starts[f.number] = frameStart{uint32(len(p.packs)), uint32(first)}
	if err := c.write(border); err != nil {
		return err
	}
	return c.write(sealed)
}

// openPack begins a pack, with its head if it is encrypted.
func (p *packer) openPack() error {
	ix, err := pack.NewIndex(p.key, p.random)
	if err != nil {
		return fmt.Errorf("create pack: %w", err)
	}
	file, err := p.sink.CreatePack(p.ctx)
	if err != nil {
		return fmt.Errorf("create pack: %w", err)
	}
	p.current = &openPack{file: file, sum: sha256.New(), index: ix}
	return p.current.write(ix.Head())
}

func (c *openPack) fits(f *frame) bool {
	pages := len(c.index.Hashes) + f.pages
	return pages <= pack.MaxPackPages && c.bytes+int64(len(f.stored)+c.index.Overhead())+c.index.EncodedBytes(len(c.index.Frames)+1, pages) <= pack.MaxPackBytes
}

func (c *openPack) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.sum.Write(b)
	c.bytes += int64(len(b))
	if _, err := c.file.Write(b); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}

// closePack writes the index and commits the pack in the background: the
// sink's fsync does not hold up the next pack.
func (p *packer) closePack() error {
	c := p.current
	if err := c.write(c.index.Encode(c.bytes)); err != nil {
		return err
	}
	p.current = nil
	d := digest.NewDigest(digest.SHA256, c.sum)
	p.packs = append(p.packs, d)
	p.storedBytes += c.bytes
	p.slots <- struct{}{}
	p.commits.Add(1)
	go func() {
		defer p.commits.Done()
		defer func() { <-p.slots }()
		if err := c.file.Commit(p.ctx, d, c.bytes); err != nil {
			p.failCommit(errors.Join(fmt.Errorf("commit pack %s: %w", d, err), c.file.Abort()))
		}
	}()
	return nil
}

func (p *packer) failCommit(err error) {
	p.commitMu.Lock()
	defer p.commitMu.Unlock()
	p.commitErr = errors.Join(p.commitErr, err)
}

func (p *packer) commitError() error {
	p.commitMu.Lock()
	defer p.commitMu.Unlock()
	return p.commitErr
}

// finish ends the last pack and waits for all commits. No frame may be under
// way.
func (p *packer) finish() error {
	var err error
	if p.ctx.Err() == nil && p.current != nil {
		err = p.closePack()
	}
	p.commits.Wait()
	return errors.Join(err, p.commitError())
}

// abort removes the pack being written.
func (p *packer) abort() error {
	p.commits.Wait()
	if c := p.current; c != nil {
		p.current = nil
		if err := c.file.Abort(); err != nil {
			return fmt.Errorf("remove unfinished pack: %w", err)
		}
	}
	return nil
}

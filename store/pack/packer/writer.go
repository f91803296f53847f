package packer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Sink makes the files that packs are written to.
type Sink interface {
	CreatePack(ctx context.Context) (PackFile, error)
}

// PackFile takes one pack's bytes, first to last, from one goroutine at a time.
// It ends with Commit, or with Abort when Commit was not called or failed.
// Commit may block (fsync): later packs are written meanwhile.
type PackFile interface {
	Write(p []byte) (int, error)
	Commit(ctx context.Context, d digest.Digest, size int64) error
	Abort() error
}

// Stats counts the pages of a Writer's images as their maps show them, and the
// bytes of the packs it wrote.
type Stats struct {
	PagesZero   uint64 // not stored
	PagesNew    uint64 // stored by this Writer, each once; those moved out of poorly used frames too
	PagesReused uint64 // found in a parent, or equal to another page
	StoredBytes int64
}

// Known is an existing pack whose pages may be reused, open until Flush returns.
type Known struct {
	pack.Opened
	Only *pack.Live // the pages that may be reused; nil is all
}

// OpenKnown opens a pack and reads its index.
func OpenKnown(ctx context.Context, d digest.Digest, src pack.Source) (Known, error) {
	p, err := pack.OpenPack(ctx, d, src)
	return Known{Opened: p}, err
}

// WriterOptions: the zero value is the fastest level, one worker a CPU.
type WriterOptions struct {
	Workers int
	Level   pack.Level
	Family  []Known // further packs to look for pages in
	// Key encrypts the packs; nil is plain ones. Pages of packs under another key,
	// or under none where this one is, are not reused: what Family and parents
	// bring of those is passed over.
	Key *keyring.Key
	// KeepFrames reuses pages however few of their frame are used; for what is no
	// image that a restore reads.
	KeepFrames bool
}

// Writer turns pages of one or more images into packs. Its images may be
// written by several goroutines; pages are placed in the order of the calls.
// A Writer must be ended by Flush or Abort. The first error ends it: every
// later call returns that error.
type Writer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	threads    int // goroutines that take jobs
	keepFrames bool
	encoder    *zstd.Encoder
	jobs       chan *job
	batches    chan *batch // free ones
	running    sync.WaitGroup

	dispatch sync.Mutex // held to hand out turns in call order
	started  bool
	closed   bool
	flushed  bool
	last     <-chan struct{} // turn of the job before the next one
	open     *job            // pages of WriteAt that do not fill a batch yet
	images   []*ImageWriter

	append  sync.Mutex // held by the job whose turn it is
	table   *pageTable
	filling [classes]*frame // the open frames
	frames  int             // frames opened so far
	ended   int             // frames that had all of their pages

	out *packer
}

// threadsAWorker keeps a CPU busy while one of its jobs waits for its turn.
const threadsAWorker = 2

// NewWriter makes a Writer that stores packs in sink. Cancelling ctx ends it.
func NewWriter(ctx context.Context, sink Sink, o WriterOptions) *Writer {
	if o.Workers < 1 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &Writer{
		ctx: ctx, cancel: cancel, threads: threadsAWorker * o.Workers, keepFrames: o.KeepFrames,
		jobs: make(chan *job), batches: make(chan *batch, threadsAWorker*o.Workers+2),
		table: newPageTable(), last: closedTurn(),
	}
	for range cap(w.batches) {
		w.batches <- new(batch)
	}
	w.out = newPacker(ctx, sink, o.Key, threadsAWorker*o.Workers+1+int(classes))
	var err error
	if w.encoder, err = pack.NewFrameEncoder(o.Level, o.Workers); err != nil {
		w.fail(fmt.Errorf("make zstd encoder: %w", err))
	}
	if o.Key != nil {
		w.table.key = o.Key.ID()
	}
	w.register(o.Family)
	return w
}

// register adds the family's packs to the table while the caller opens what he
// writes; whoever needs the table waits for it.
func (w *Writer) register(family []Known) {
	if len(family) == 0 {
		return
	}
	w.append.Lock()
	w.running.Add(1)
	go func() {
		defer w.running.Done()
		defer w.append.Unlock()
		w.table.registerAll(family)
	}()
}

func closedTurn() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// Image begins an image of a length in bytes. parent may be nil; it may be
// closed once Finish has been called.
func (w *Writer) Image(bytes uint64, parent *pack.Image) *ImageWriter {
	iw := &ImageWriter{w: w, bytes: bytes, parent: parent}
	if bytes > pack.MaxImageBytes {
		w.fail(failure.New(failure.Incompatible, "write image: %d bytes, at most %d are supported", bytes, uint64(pack.MaxImageBytes)))
	}
	if parent != nil {
		var packs []Known
		for _, p := range parent.Opened() {
			packs = append(packs, Known{Opened: p})
		}
		w.append.Lock()
		iw.parentPacks = w.table.registerAll(packs)
		w.append.Unlock()
	}
	w.dispatch.Lock()
	w.images = append(w.images, iw)
	w.dispatch.Unlock()
	return iw
}

// fail records the first error and stops all work.
func (w *Writer) fail(err error) { w.cancel(err) }

// err is the error that ended the Writer, or nil.
func (w *Writer) err() error { return context.Cause(w.ctx) }

var errEnded = errors.New("pack writer: used after Flush or Abort")

// send gives a job the next turn. w.dispatch is held.
func (w *Writer) send(j *job) error {
	if !w.started {
		w.started = true
		w.running.Add(w.threads)
		for range w.threads {
			go w.work()
		}
	}
	turn := make(chan struct{})
	j.before, j.turn, w.last = w.last, turn, turn
	// Workers take jobs until the channel closes, so this never blocks for good.
	w.jobs <- j
	return w.err()
}

// batch gives an empty batch, waiting for a worker to be done with one.
func (w *Writer) batch() (*batch, error) {
	select {
	case b := <-w.batches:
		b.pages = b.pages[:0]
		return b, nil
	case <-w.ctx.Done():
		return nil, w.err()
	}
}

// sendOpen hands over the pages that WriteAt gathered. w.dispatch is held.
func (w *Writer) sendOpen() error {
	j := w.open
	if j == nil {
		return w.err()
	}
	w.open = nil
	return w.send(j)
}

// Flush waits for all pages given so far, writes what remains and ends the
// last pack. Afterwards the images' maps can be had. ctx bounds the wait.
func (w *Writer) Flush(ctx context.Context) (Stats, error) {
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()
	if !w.end() {
		return Stats{}, errEnded
	}
	if w.err() == nil && !w.keepFrames {
		if err := w.rewrite(); err != nil {
			w.fail(err)
		}
	}
	for c := range classes {
		if f := w.endFrame(c); f != nil && w.err() == nil {
			w.compress(f)
		}
	}
	if err := w.out.finish(); err != nil {
		w.fail(err)
	}
	if err := w.err(); err != nil {
		return Stats{}, errors.Join(fmt.Errorf("write packs: %w", err), w.out.abort())
	}
	s := w.stats()
	w.cancel(errEnded)
	w.release()
	w.dispatch.Lock()
	w.flushed = true
	w.dispatch.Unlock()
	return s, nil
}

// end takes no more pages and waits for the workers; false when it was called
// before.
func (w *Writer) end() bool {
	w.dispatch.Lock()
	defer w.dispatch.Unlock()
	if w.closed {
		return false
	}
	_ = w.sendOpen() // its error is the Writer's
	w.closed = true
	close(w.jobs)
	w.running.Wait()
	return true
}

// Abort ends the Writer and removes the pack being written. Packs that were
// committed before stay. After Flush it does nothing.
func (w *Writer) Abort() {
	w.fail(errEnded)
	if w.end() {
		_ = w.out.abort() // the sink removes what is left with its owner
		w.release()
	}
}

// release drops the large buffers; the table stays for Finish.
func (w *Writer) release() {
	w.batches, w.filling, w.encoder = nil, [classes]*frame{}, nil
	w.table.tags, w.table.at, w.table.fresh = nil, nil, nil
}

// stats reads the pages' final places: overwritten pages do not count.
func (w *Writer) stats() Stats {
	s := Stats{StoredBytes: w.out.storedBytes}
	seen := make([]uint64, (w.frames*pack.FramePages+63)/64)
	for _, iw := range w.images {
		var live uint64
		for _, lf := range iw.places.leaves {
			for _, l := range lf {
				if l == 0 {
					continue
				}
				live++
				n := uint64(l &^ newPage)
				if l.isNew() && seen[n/64]&(1<<(n%64)) == 0 {
					seen[n/64] |= 1 << (n % 64)
					s.PagesNew++
				} else {
					s.PagesReused++
				}
			}
		}
		s.PagesZero += pack.PagesOf(iw.bytes) - live
	}
	return s
}

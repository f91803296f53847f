package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// A map of a few kilobytes can have millions of runs: whoever wrote it may want
// the reader to run out of memory, or of time. So it is read run by run, in the
// memory of a zstd window, every length bounded before it is believed though the
// checksum was right; ctx is looked at on the way; and what comes from elsewhere is
// checked without being kept (CheckMap).

// mapHead is what the head of a map says.
type mapHead struct {
	bytes, packs, runs uint64
	payload            uint64 // bytes, before compression
}

// decodeMapHead parses the head of a map whose checksum was right.
func decodeMapHead(b []byte) (h mapHead, err error) {
	le := binary.LittleEndian
	if v := le.Uint16(b[8:]); v != mapVersion {
		return h, failure.New(failure.Incompatible, "page map: version %d, this program reads %d", v, mapVersion)
	}
	if le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != PageSize || le.Uint32(b[28:]) != 0 {
		return h, damaged("page map: flags or page size unknown")
	}
	h = mapHead{le.Uint64(b[16:]), uint64(le.Uint32(b[24:])), le.Uint64(b[32:]), le.Uint64(b[40:])}
	stored := uint64(len(b) - mapHeaderBytes)
	switch {
	case h.bytes > MaxImageBytes || h.packs > maxMapPacks || h.runs > PagesOf(h.bytes):
		return h, damaged("page map: %d runs in %d packs for %d bytes", h.runs, h.packs, h.bytes)
	case h.payload > maxMapPayload || h.payload > stored*zstdMaxRatio || h.payload < h.packs*sha256.Size || h.runs > (h.payload-h.packs*sha256.Size)/minRunBytes:
		return h, damaged("page map: %d runs in %d bytes, %d compressed", h.runs, h.payload, stored)
	}
	return h, nil
}

// mapReader is a map of which the packs were read, and the runs not yet.
type mapReader struct {
	head  mapHead
	packs []digest.Digest
	in    varints
	zstd  *zstd.Decoder
}

func newMapReader(body []byte) (*mapReader, error) {
	h, err := decodeMapHead(body)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(bytes.NewReader(body[mapHeaderBytes:]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxMapPayload), zstd.WithDecoderMaxWindow(maxMapWindow))
	if err != nil {
		return nil, damaged("page map: %w", err)
	}
	r := &mapReader{head: h, zstd: dec, in: varints{src: dec, left: int64(h.payload)}}
	if err := r.readPacks(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *mapReader) close() { r.zstd.Close() }

func (r *mapReader) readPacks() error {
	r.packs = make([]digest.Digest, 0, min(r.head.packs, 4096))
	for range r.head.packs {
		r.in.fill()
		if len(r.in.rest) < sha256.Size {
			return damaged("page map: it ends within its packs: %w", r.in.cause())
		}
		r.packs = append(r.packs, digest.NewDigestFromBytes(digest.SHA256, r.in.rest[:sha256.Size]))
		r.in.rest = r.in.rest[sha256.Size:]
	}
	return nil
}

const (
	// runsAtOnce are decoded between two looks at ctx.
	runsAtOnce = 1 << 16
	// mostRunBytes are four varints and more than a digest.
	mostRunBytes = 4 * binary.MaxVarintLen64
)

// each gives do the runs in order, each held to the invariants of a Map.
func (r *mapReader) each(ctx context.Context, do func(Run) error) error {
	d := runDecoder{packs: int64(len(r.packs)), pages: PagesOf(r.head.bytes)}
	for i := range r.head.runs {
		if i%runsAtOnce == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		run, err := d.next(&r.in, i)
		if err != nil {
			return err
		}
		if err := do(run); err != nil {
			return err
		}
	}
	r.in.fill()
	if len(r.in.rest) != 0 || r.in.left != 0 || !errors.Is(r.in.err, io.EOF) {
		return damaged("page map: %d bytes and more after the last run: %w", len(r.in.rest), r.in.cause())
	}
	return nil
}

// runDecoder knows the run before.
type runDecoder struct {
	packs         int64
	pages         uint64 // of the image
	last          Run
	end           uint64
	pack, packEnd int64
}

func (d *runDecoder) next(in *varints, i uint64) (Run, error) {
	in.fill()
	gap, pages := in.uint(), in.uint()
	packStep, pageStep := in.int(), in.int()
	if in.bad || gap > MaxImageBytes || pages > MaxPackPages || !small(packStep) || !small(pageStep) {
		return Run{}, damaged("page map: run %d cannot be read: %w", i, in.cause())
	}
	pack, packPage := d.pack+packStep, d.packEnd+pageStep
	if pack < 0 || pack >= d.packs || packPage < 0 || packPage+int64(pages) > MaxPackPages {
		return Run{}, damaged("page map: run %d names page %d+%d of pack %d of %d", i, packPage, pages, pack, d.packs)
	}
	r := Run{First: d.end + gap, Pages: pages, Pack: uint32(pack), PackPage: uint32(packPage)}
	if err := d.follows(r, i); err != nil {
		return Run{}, err
	}
	d.last, d.end, d.pack, d.packEnd = r, r.First+pages, pack, packPage+int64(pages)
	return r, nil
}

func (d *runDecoder) follows(r Run, i uint64) error {
	switch {
	case r.Pages == 0 || r.First >= d.pages || r.Pages > d.pages-r.First:
		return damaged("page map: run %d covers %d pages at %d of %d", i, r.Pages, r.First, d.pages)
	case i > 0 && d.last.continuedBy(r):
		return damaged("page map: run %d continues the one before", i)
	}
	return nil
}

// small keeps sums of two steps far from overflow.
func small(step int64) bool { return step > -1<<32 && step < 1<<32 }

// varints reads numbers off a stream of exactly left bytes; bad stays set after a
// failure. fill comes before up to mostRunBytes are taken.
type varints struct {
	src  io.Reader
	buf  []byte
	rest []byte // of buf
	left int64  // bytes of src that are still to come
	err  error  // why no more come
	bad  bool
}

// varintBytes are read at once.
const varintBytes = 64 << 10

func (v *varints) fill() {
	if len(v.rest) >= mostRunBytes || v.err != nil {
		return
	}
	if v.buf == nil {
		v.buf = make([]byte, varintBytes)
	}
	n := copy(v.buf, v.rest)
	for n < mostRunBytes && v.err == nil {
		var more int
		// One byte more than are announced shows that there are too many.
		more, v.err = v.src.Read(v.buf[n:min(int64(len(v.buf)), int64(n)+v.left+1)])
		n, v.left = n+more, v.left-int64(more)
		if v.left < 0 {
			v.err, v.bad = errors.New("there is more than is announced"), true
		}
	}
	v.rest = v.buf[:n]
}

func (v *varints) uint() uint64 {
	x, n := binary.Uvarint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

func (v *varints) int() int64 {
	x, n := binary.Varint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

// cause of a failure: what the stream said, or that its bytes make no number.
func (v *varints) cause() error {
	if v.err == nil || errors.Is(v.err, io.EOF) {
		return errors.New("no such bytes")
	}
	return v.err
}

// MapCheck is what a map from elsewhere is held to.
type MapCheck struct {
	Bytes uint64 // that its image has
	Runs  uint64 // that it may have at most
	// Pages tells how many pages each of some packs has.
	Pages func(context.Context, []digest.Digest) ([]uint32, error)
}

// CheckMap reads a map without keeping its runs, and so in bounded memory; the
// answer is how many it has. What OpenImage would refuse is refused.
func CheckMap(ctx context.Context, b []byte, keys keyring.Keys, c MapCheck) (runs uint64, err error) {
	r, err := openMapReader(b, keys)
	if err != nil {
		return 0, err
	}
	defer r.close()
	if r.head.bytes != c.Bytes {
		return 0, damaged("page map: it describes %d bytes, the snapshot says %d", r.head.bytes, c.Bytes)
	}
	if r.head.runs > c.Runs {
		return 0, damaged("page map: %d runs, at most %d can be had of what comes with it", r.head.runs, c.Runs)
	}
	pages, err := c.Pages(ctx, r.packs)
	if err != nil {
		return 0, err
	}
	err = r.each(ctx, func(run Run) error {
		if uint64(run.PackPage)+run.Pages > uint64(pages[run.Pack]) {
			return damaged("page map names page %d of pack %s, which has %d", uint64(run.PackPage)+run.Pages-1, r.packs[run.Pack], pages[run.Pack])
		}
		return nil
	})
	return r.head.runs, err
}

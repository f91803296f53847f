package pack

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Level trades speed of writing for size. The zero value is the fastest.
type Level int

// The levels a Writer knows.
const (
	Fastest Level = iota // for captures: the guest's owner waits
	Better               // for repacking: about a third slower than Default, smaller
)

func (l Level) zstd() zstd.EncoderLevel {
	if l == Better {
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedFastest
}

// NewFrameEncoder makes an encoder whose EncodeAll may be called by workers
// goroutines at once. Frames carry their zstd checksum so that `zstd -t` checks
// content; what does not compress comes out as raw blocks.
func NewFrameEncoder(l Level, workers int) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(l.zstd()),
		zstd.WithEncoderConcurrency(workers),
		zstd.WithWindowSize(frameRawBytes),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(true))
}

// frameDecoder decodes frames into a buffer of its own. Not for concurrent use.
type frameDecoder struct {
	zstd *zstd.Decoder
}

// newFrameDecoder makes a decoder that never allocates more than one frame.
// zstd's own checksum is not computed: every page is compared with its hash.
func newFrameDecoder() (*frameDecoder, error) {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(frameRawBytes),
		zstd.WithDecoderMaxWindow(frameRawBytes),
		zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &frameDecoder{zstd: d}, nil
}

// decodeSlack is capacity behind a frame's bytes that lets the decoder copy in
// whole words up to the end: a block and a word. Without it the last block of
// each frame is decoded with care, at two thirds of the speed.
const decodeSlack = 128<<10 + 16

// decode fills raw, whose length is exactly what the frame must hold. What lies
// behind it within decodeSlack may be overwritten.
func (d *frameDecoder) decode(stored, raw []byte) error {
	out, err := d.zstd.DecodeAll(stored, raw[:0:min(cap(raw), len(raw)+decodeSlack)])
	if err != nil {
		return err
	}
	if len(out) != len(raw) {
		return fmt.Errorf("frame holds %d bytes, its index says %d", len(out), len(raw))
	}
	return nil
}

// unzstdWindow is the largest that zstd makes unless it is told to.
const unzstdWindow = 128 << 20

// Unzstd expands a stream of zstd frames from elsewhere, whatever it holds, in the
// memory of two windows.
func Unzstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(unzstdWindow))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return d.IOReadCloser(), nil
}

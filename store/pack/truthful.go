package pack

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// CheckTruth reads a blob of size bytes that was made elsewhere. If it is a pack,
// its frames must give the very pages that its index names: a capture that finds a
// page in an index stores it no more, so that one lie would cost a snapshot of
// somebody else. Other blobs pass, and encrypted packs: those were made by somebody
// who has the key. Errors: failure.Damaged, and what r and the context say.
func CheckTruth(ctx context.Context, r io.ReaderAt, size int64) error {
	var tail [packTailBytes]byte
	if size < packTailBytes {
		return nil
	}
	if err := readFull(r, tail[:], size-packTailBytes); err != nil {
		return fmt.Errorf("read the end of a blob: %w", err)
	}
	if string(tail[tailMagicAt:]) != packMagic || binary.LittleEndian.Uint16(tail[20:]) == sealedVersion {
		return nil
	}
	ix, err := ReadIndex(r, size, nil)
	if err != nil {
		return err
	}
	workers := min(runtime.GOMAXPROCS(0), len(ix.Frames))
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error { return checkFrames(ctx, r, ix, w, workers) })
	}
	return g.Wait()
}

// checkFrames reads every step-th frame, beginning with the first-th.
func checkFrames(ctx context.Context, r io.ReaderAt, ix *Index, first, step int) error {
	m, err := NewScan()
	if err != nil {
		return err
	}
	defer m.decoder.Close()
	for i := first; i < len(ix.Frames); i += step {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m.Read(r, ix, i)
		for p, ok := range m.Sound {
			if !ok {
				return damaged("pack: page %d is not the one that the index names", ix.Frames[i].First+uint32(p))
			}
		}
	}
	return nil
}

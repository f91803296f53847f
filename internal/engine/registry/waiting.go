package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A pipe may have nothing to read for any length of time. That must not make a
// command uninterruptible.

// pollEvery is how often ctx is checked while a pipe has no writer.
const pollEvery = 50 * time.Millisecond

// openWaiting opens a file for reading. It waits for the writer of a pipe.
func openWaiting(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Mode().Type() == os.ModeNamedPipe {
		err = waitForWriter(ctx, f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// waitForWriter waits until there is something to read, or a writer came and
// went: without a writer, reading would find the end at once.
func waitForWriter(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		var n int
		var perr error
		err := raw.Control(func(fd uintptr) {
			n, perr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pollEvery.Milliseconds()))
		})
		if perr != nil && !errors.Is(perr, unix.EINTR) {
			err = errors.Join(err, fmt.Errorf("wait for %s: %w", f.Name(), perr))
		}
		if err != nil || n > 0 {
			return err
		}
	}
	return context.Cause(ctx)
}

// heeding is a stream whose reader waits no longer than ctx lasts. A read in
// progress is then abandoned: the command ends.
type heeding struct {
	ctx  context.Context
	came <-chan piece
	rest []byte
	err  error
}

type piece struct {
	b   []byte
	err error
}

// pieceBytes are read at once.
const pieceBytes = 256 << 10

func newHeeding(ctx context.Context, r io.Reader) *heeding {
	came := make(chan piece)
	go func() {
		for {
			b := make([]byte, pieceBytes)
			n, err := r.Read(b)
			select {
			case came <- piece{b[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &heeding{ctx: ctx, came: came}
}

func (h *heeding) Read(p []byte) (int, error) {
	for len(h.rest) == 0 {
		if h.err != nil {
			return 0, h.err
		}
		select {
		case <-h.ctx.Done():
			return 0, context.Cause(h.ctx)
		case x := <-h.came:
			h.rest, h.err = x.b, x.err
		}
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// Package clone copies whole files the cheapest way the file system offers.
//
// Words: a reflink (FICLONE) shares the blocks of the source until one side
// writes, and takes milliseconds for any size. A sparse copy moves only what
// SEEK_DATA calls data and leaves the holes as holes.
//
// Invariants:
//
//  1. The destination is a fresh file, mode 0600; an existing file is never
//     overwritten.
//  2. A nil error means that the bytes were fsynced, unless Options.Fleeting. The
//     caller fsyncs the folder entry, since it often has more entries to make.
//  3. On error, and when the context is cancelled, no destination is left.
//
// The caller ensures that nothing writes to the source meanwhile: only a reflink
// is atomic.
package clone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// The methods that File reports.
const (
	Reflink = "reflink"
	Sparse  = "sparse"
)

// Options of one copy.
type Options struct {
	// OnBytes receives how many of the file's bytes are done, holes included, and
	// how many there are. May be nil.
	OnBytes func(done, total int64)
	// Fleeting copies are read by this process and then removed: nothing is
	// fsynced.
	Fleeting bool
}

func (o Options) report(done, total int64) {
	if o.OnBytes != nil {
		o.OnBytes(done, total)
	}
}

// File copies the regular file src to dst and returns the method used. A missing
// src is failure.NotFound, an existing dst is os.ErrExist, a src that is not a
// regular file is failure.Usage.
func File(ctx context.Context, dst, src string, o Options) (method string, err error) {
	in, err := openSource(src)
	if err != nil {
		return "", fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	defer in.Close()
	return Opened(ctx, dst, in, o)
}

// Opened is File for a source that is already open.
func Opened(ctx context.Context, dst string, in *os.File, o Options) (method string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %s to %s: %w", in.Name(), dst, err)
		}
	}()
	fi, err := in.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", failure.New(failure.Usage, "%s is not a regular file", in.Name())
	}
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(dst))
		}
	}()
	if method, err = fill(ctx, out, in, fi.Size(), o); err != nil {
		return "", err
	}
	if o.Fleeting {
		return method, nil
	}
	return method, out.Sync()
}

// ErrNoReflink says that src and dst cannot share blocks.
var ErrNoReflink = errors.New("no reflink between these folders")

// TryReflink makes a reflink of src at dst, removes it again and returns how long
// that took, after writing out dirty pages. ErrNoReflink if the file systems
// cannot.
func TryReflink(dst, src string) (took time.Duration, err error) {
	in, err := openSource(src)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := in.Sync(); err != nil {
		return 0, fmt.Errorf("write out %s: %w", src, err)
	}
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(dst)) }()
	start := time.Now()
	err = unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	took = time.Since(start)
	if err != nil && cannotReflink(err) {
		return 0, ErrNoReflink
	}
	if err != nil {
		return 0, fmt.Errorf("reflink %s: %w", src, err)
	}
	return took, nil
}

// openSource never blocks, also when path is a FIFO.
func openSource(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.Wrap(failure.NotFound, err)
	}
	return f, err
}

func fill(ctx context.Context, out, in *os.File, size int64, o Options) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	if err == nil {
		o.report(size, size)
		return Reflink, nil
	}
	if !cannotReflink(err) {
		return "", fmt.Errorf("reflink: %w", err)
	}
	if err := out.Truncate(size); err != nil {
		return "", err
	}
	for off := int64(0); off < size; {
		first, end, err := NextData(in, off, size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if err := copyRange(ctx, out, in, first, end, size, o); err != nil {
			return "", err
		}
		off = end
	}
	o.report(size, size)
	return Sparse, nil
}

// cannotReflink tells "not supported here" from a real failure such as ENOSPC or
// EIO.
func cannotReflink(err error) bool {
	for _, no := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EPERM, unix.ETXTBSY} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// NextData returns the first stretch [first, end) of data at or after off in a
// file of the given size; io.EOF if only a hole follows. On a file system that
// does not report holes, everything is one stretch.
func NextData(f *os.File, off, size int64) (first, end int64, err error) {
	first, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return off, size, nil
	case err != nil:
		return 0, 0, fmt.Errorf("look for data in %s: %w", f.Name(), err)
	}
	end, err = unix.Seek(int(f.Fd()), first, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("look for holes in %s: %w", f.Name(), err)
	}
	if first >= size {
		return 0, 0, io.EOF
	}
	return first, min(end, size), nil
}

// chunk limits what is copied between two checks of the context.
const chunk = 8 << 20

func copyRange(ctx context.Context, out, in *os.File, from, to, total int64, o Options) error {
	inKernel := true
	for off := from; off < to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int64(0)
		var err error
		if inKernel {
			n, err = copyInKernel(out, in, off, min(chunk, to-off))
			// Refused, or nothing moved where there is data (some kernels and
			// file systems): read and write instead.
			if err == nil && n == 0 || err != nil && cannotReflink(err) {
				inKernel = false
				continue
			}
		} else {
			n, err = copyByHand(out, in, off, min(chunk, to-off))
		}
		if err != nil {
			return err
		}
		off += n
		o.report(off, total)
	}
	return nil
}

func copyInKernel(out, in *os.File, off, n int64) (int64, error) {
	from, to := off, off
	for {
		m, err := unix.CopyFileRange(int(in.Fd()), &from, int(out.Fd()), &to, int(n), 0)
		if !errors.Is(err, unix.EINTR) {
			return int64(m), err
		}
	}
}

func copyByHand(out, in *os.File, off, n int64) (int64, error) {
	m, err := io.Copy(io.NewOffsetWriter(out, off), io.NewSectionReader(in, off, n))
	if err == nil && m == 0 {
		err = fmt.Errorf("%s became shorter while it was copied: %w", in.Name(), io.ErrUnexpectedEOF)
	}
	return m, err
}

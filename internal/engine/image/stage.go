package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
)

// staged is a private copy of a file that is being imported.
type staged struct {
	i     *Store
	lease *store.Lease
	path  string
}

// stage copies the file first: what is parsed and hashed cannot change.
func (i *Store) stage(ctx context.Context, l *store.Lease, path string) (*staged, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "no file %s", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return i.stageOpened(ctx, l, f)
}

func (i *Store) stageOpened(ctx context.Context, l *store.Lease, f *os.File) (*staged, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, failure.New(failure.Usage, "%s is not a regular file", f.Name())
	}
	if err := filelock.UnusedFile(f); err != nil {
		return nil, err
	}
	if err := i.st.Space().Require(hostfacts.InfoBytes(fi)); err != nil {
		return nil, err
	}
	s := &staged{i: i, lease: l}
	if s.path, err = s.fresh(); err != nil {
		return nil, err
	}
	if _, err := clone.Opened(ctx, s.path, f, clone.Options{}); err != nil {
		return nil, fmt.Errorf("take in %s: %w", f.Name(), err)
	}
	return s, nil
}

// fresh returns an unused file name in the lease's ingest folder.
func (s *staged) fresh() (string, error) {
	dir := s.i.st.Path("ingest", s.lease.ID())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "image-")
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), os.Remove(f.Name()))
}

func (s *staged) drop() error { return os.Remove(s.path) }

// keep hashes the copy and gives it its name.
func (s *staged) keep(ctx context.Context) (digest.Digest, int64, error) {
	d, n, err := s.digest(ctx)
	if err != nil {
		return "", 0, err
	}
	return d, n, s.name(ctx, d)
}

// name makes the copy the blob of its digest; an existing one is reused.
func (s *staged) name(ctx context.Context, d digest.Digest) error {
	if err := s.lease.Hold(ctx, d); err != nil {
		return err
	}
	if err := os.Chmod(s.path, blobMode); err != nil {
		return err
	}
	durable.Step("image.copied")
	err := durable.Publish(s.path, s.i.Path(d))
	if errors.Is(err, os.ErrExist) {
		err = s.drop()
	}
	return err
}

func (s *staged) digest(ctx context.Context) (digest.Digest, int64, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	var n int64
	for buf := make([]byte, 1<<20); ; {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		k, err := f.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return digest.NewDigest(digest.SHA256, h), n, nil
		}
		if err != nil {
			return "", 0, err
		}
	}
}

// recognise determines kind and format by magic bytes.
func (s *staged) recognise() (kind, format string, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", "", err
	}
	wrapping, err := unwrapped(f, fi.Size())
	if err != nil {
		return "", "", err
	}
	if wrapping != "" {
		return "disk", wrapping, nil
	}
	head := make([]byte, 1024)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", "", err
	}
	if kind, format = magic(head[:n]); kind != "" {
		return kind, format, nil
	}
	if fi.Size() > 0 && fi.Size()%512 == 0 {
		return "disk", "raw", nil
	}
	return "", "", failure.New(failure.Usage, "neither a disk (raw, qcow2) nor a kernel nor an initramfs")
}

func magic(head []byte) (kind, format string) {
	for _, m := range []struct {
		at           int
		magic        string
		kind, format string
	}{
		{0, "\x7fELF", "kernel", "elf"},
		{0x202, "HdrS", "kernel", "bzImage"},
		{0x38, "ARM\x64", "kernel", "Image"},
		{0, "070701", "initramfs", "cpio"},
		{0, "\x1f\x8b", "initramfs", "gzip"},
		{0, "\x28\xb5\x2f\xfd", "initramfs", "zstd"},
		{0, "\xfd7zXZ\x00", "initramfs", "xz"},
	} {
		if len(head) >= m.at+len(m.magic) && bytes.Equal(head[m.at:m.at+len(m.magic)], []byte(m.magic)) {
			return m.kind, m.format
		}
	}
	return "", ""
}

// flatten writes the disk's contents as a sparse raw file.
func (s *staged) flatten(ctx context.Context) (*staged, error) {
	in, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	q, err := openQcow2(in)
	if err != nil {
		return nil, err
	}
	raw := &staged{i: s.i, lease: s.lease}
	if raw.path, err = s.fresh(); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(raw.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = q.copyTo(ctx, out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return nil, errors.Join(err, raw.drop())
	}
	return raw, s.drop()
}

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/clone"
	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
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
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "no file %s", path)
	}
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, failure.New(failure.Usage, "%s is not a regular file", path)
	}
	if err := i.st.Require(store.FileBytes(path)); err != nil {
		return nil, err
	}
	s := &staged{i: i, lease: l}
	if s.path, err = s.fresh(); err != nil {
		return nil, err
	}
	if _, err := clone.File(ctx, s.path, path, clone.Options{}); err != nil {
		return nil, fmt.Errorf("copy %s: %w", path, err)
	}
	return s, nil
}

// fresh names a file in the lease's ingest folder that does not exist.
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
	if err := s.lease.Hold(ctx, d); err != nil {
		return "", 0, err
	}
	if err := os.Chmod(s.path, 0o400); err != nil {
		return "", 0, err
	}
	durable.Step("image.copied")
	err = durable.Publish(s.path, s.i.Path(d))
	if errors.Is(err, os.ErrExist) {
		err = s.drop()
	}
	return d, n, err
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

// recognise tells kind and format by magic bytes.
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
		{0, "QFI\xfb", "disk", "qcow2"},
		{0, "\x7fELF", "kernel", "elf"},
		{0x202, "HdrS", "kernel", "bzImage"},
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

// qcow2 as far as it is read here: version 2 or 3, no backing file, no
// encryption, no external data, no compressed clusters.
type qcow2 struct {
	f           *os.File
	size        int64 // virtual bytes
	fileBytes   int64
	clusterBits uint32
	l1          []uint64
}

const (
	maxL1Bytes = 32 << 20
	offsetMask = 0x00fffffffffffe00
	compressed = 1 << 62
)

func openQcow2(f *os.File) (*qcow2, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := make([]byte, 104)
	if n, err := f.ReadAt(h, 0); n < 72 {
		return nil, failure.New(failure.Damaged, "qcow2 header: %w", err)
	}
	be := binary.BigEndian
	q := &qcow2{f: f, fileBytes: fi.Size(), clusterBits: be.Uint32(h[20:]), size: int64(be.Uint64(h[24:]))}
	version, l1Entries, l1At := be.Uint32(h[4:]), be.Uint32(h[36:]), int64(be.Uint64(h[40:]))
	switch {
	case version != 2 && version != 3:
		return nil, failure.New(failure.Incompatible, "qcow2 version %d", version)
	case be.Uint64(h[8:]) != 0:
		return nil, failure.Hint(failure.New(failure.Incompatible, "qcow2 with a backing file"), "qemu-img convert -O raw")
	case be.Uint32(h[32:]) != 0:
		return nil, failure.New(failure.Incompatible, "encrypted qcow2")
	case version == 3 && be.Uint64(h[72:])&^uint64(1) != 0:
		return nil, failure.Hint(failure.New(failure.Incompatible, "qcow2 with features %#x", be.Uint64(h[72:])), "qemu-img convert -O raw")
	case q.clusterBits < 9 || q.clusterBits > 21:
		return nil, failure.New(failure.Damaged, "qcow2 clusters of 2^%d bytes", q.clusterBits)
	case q.size < 0 || q.size > 1<<42 || q.size%512 != 0:
		return nil, failure.New(failure.Damaged, "qcow2 of %d bytes", q.size)
	}
	perTable := int64(1) << (2*q.clusterBits - 3)
	need := (q.size + perTable - 1) / perTable
	if int64(l1Entries) < need || int64(l1Entries)*8 > maxL1Bytes || l1At < 0 || l1At > q.fileBytes-int64(l1Entries)*8 {
		return nil, failure.New(failure.Damaged, "qcow2 table of %d entries at %d", l1Entries, l1At)
	}
	q.l1, err = q.table(l1At, int(need))
	return q, err
}

func (q *qcow2) table(at int64, n int) ([]uint64, error) {
	b := make([]byte, 8*n)
	if k, err := q.f.ReadAt(b, at); k < len(b) {
		return nil, failure.New(failure.Damaged, "qcow2 table at %d: %w", at, err)
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return out, nil
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

func (q *qcow2) copyTo(ctx context.Context, out *os.File) error {
	if err := out.Truncate(q.size); err != nil {
		return err
	}
	cluster := int64(1) << q.clusterBits
	entries := int(cluster / 8)
	buf := make([]byte, cluster)
	for i, e := range q.l1 {
		if e&offsetMask == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		l2, err := q.table(int64(e&offsetMask), entries)
		if err != nil {
			return err
		}
		for j, c := range l2 {
			at := (int64(i)*int64(entries) + int64(j)) * cluster
			if err := q.copyCluster(out, buf, c, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *qcow2) copyCluster(out *os.File, buf []byte, entry uint64, at int64) error {
	if entry&compressed != 0 {
		return failure.Hint(failure.New(failure.Incompatible, "qcow2 with compressed clusters"), "qemu-img convert -O raw")
	}
	from := int64(entry & offsetMask)
	if from == 0 || entry&1 != 0 || at >= q.size { // unallocated, or reads as zero
		return nil
	}
	if from >= q.fileBytes {
		return failure.New(failure.Damaged, "qcow2 cluster at %d, the file ends at %d", from, q.fileBytes)
	}
	buf = buf[:min(int64(len(buf)), q.size-at)]
	clear(buf)
	if _, err := q.f.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err := out.WriteAt(buf, at)
	return err
}

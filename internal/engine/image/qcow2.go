package image

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// qcow2 as far as it is read here: version 2 or 3, no backing file, no
// encryption, no external data; qcow2compressed.go reads compressed clusters,
// which every vendor's image has. No value in the file is used before it is
// checked against the file's own size.
type qcow2 struct {
	f           *os.File
	size        int64 // virtual bytes
	fileBytes   int64
	clusterBits uint32
	l1          []uint64
	copied      int64 // bytes of clusters read
	compression compression
	inflated    map[int64]bool // compressed clusters read, by offset
}

const (
	maxL1Bytes = 32 << 20
	offsetMask = 0x00fffffffffffe00
	compressed = 1 << 62
)

// Incompatible features of version 3 that are read.
const (
	dirty           = 1 << 0 // reference counts may be wrong; they are not used
	compressionTold = 1 << 3
)

func openQcow2(f *os.File) (*qcow2, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := make([]byte, 112)
	n, err := f.ReadAt(h, 0)
	if n < 104 {
		return nil, failure.New(failure.Damaged, "qcow2 header: %w", err)
	}
	be := binary.BigEndian
	q := &qcow2{f: f, fileBytes: fi.Size(), clusterBits: be.Uint32(h[20:]), size: int64(be.Uint64(h[24:])), inflated: map[int64]bool{}}
	version, l1Entries, l1At := be.Uint32(h[4:]), be.Uint32(h[36:]), int64(be.Uint64(h[40:]))
	switch {
	case version != 2 && version != 3:
		return nil, failure.New(failure.Incompatible, "qcow2 version %d", version)
	case be.Uint64(h[8:]) != 0:
		return nil, failure.Hint(failure.New(failure.Incompatible, "qcow2 with a backing file"), "qemu-img convert -O raw")
	case be.Uint32(h[32:]) != 0:
		return nil, failure.New(failure.Incompatible, "encrypted qcow2")
	case version == 3 && be.Uint64(h[72:])&^uint64(dirty|compressionTold) != 0:
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
	if q.compression, err = readCompression(h[:n], version == 3 && be.Uint64(h[72:])&compressionTold != 0); err != nil {
		return nil, err
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

func (q *qcow2) copyTo(ctx context.Context, out *os.File) error {
	if err := out.Truncate(q.size); err != nil {
		return err
	}
	cluster := int64(1) << q.clusterBits
	entries := int(cluster / 8)
	buf := make([]byte, cluster)
	tables := map[uint64]bool{}
	for i, e := range q.l1 {
		if e&offsetMask == 0 {
			continue
		}
		if tables[e&offsetMask] {
			return failure.New(failure.Damaged, "qcow2 names the table at %d twice", e&offsetMask)
		}
		tables[e&offsetMask] = true
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
	if at >= q.size {
		return nil
	}
	allocated, err := q.readCluster(buf, entry, min(int64(len(buf)), q.size-at))
	if err != nil || !allocated || isZero(buf) {
		return err
	}
	_, err = out.WriteAt(buf[:min(int64(len(buf)), q.size-at)], at)
	return err
}

// readCluster fills buf; false where the cluster is not there or reads as zero.
func (q *qcow2) readCluster(buf []byte, entry uint64, used int64) (bool, error) {
	if entry&compressed != 0 {
		return true, q.inflate(buf, entry)
	}
	from := int64(entry & offsetMask)
	if from == 0 || entry&1 != 0 {
		return false, nil
	}
	if from >= q.fileBytes {
		return false, failure.New(failure.Damaged, "qcow2 cluster at %d, the file ends at %d", from, q.fileBytes)
	}
	// Each cluster of the file stands in one place of the disk: a file whose
	// tables name clusters again and again would blow up to any size.
	if q.copied += used; q.copied > q.fileBytes {
		return false, failure.New(failure.Damaged, "qcow2 tables name more clusters than the file has")
	}
	clear(buf)
	if _, err := q.f.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

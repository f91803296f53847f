package image

import (
	"bytes"
	"compress/flate"
	"io"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// compression of a qcow2's compressed clusters, the header's byte 104.
type compression byte

const (
	deflate compression = 0
	zstd    compression = 1
)

// compressedCluster is where the bytes of one lie in the file.
type compressedCluster struct {
	from  int64
	bytes int64 // at most: the length is told in sectors of 512 bytes
}

// locate reads the descriptor of a compressed cluster: the lowest bits are an
// offset in bytes, those above count further sectors (qcow2 specification,
// "Compressed Clusters Descriptor").
func (q *qcow2) locate(entry uint64) compressedCluster {
	offsetBits := 62 - (q.clusterBits - 8)
	from := int64(entry & (1<<offsetBits - 1))
	sectors := int64(entry&(1<<62-1)>>offsetBits) + 1
	return compressedCluster{from: from, bytes: sectors*512 - from%512}
}

// inflate fills buf with a compressed cluster. No two entries may name the same
// bytes: a file of some bytes would blow up to any size.
func (q *qcow2) inflate(buf []byte, entry uint64) error {
	c := q.locate(entry)
	if c.from >= q.fileBytes {
		return failure.New(failure.Damaged, "qcow2 compressed cluster at %d, the file ends at %d", c.from, q.fileBytes)
	}
	if q.inflated[c.from] {
		return failure.New(failure.Damaged, "qcow2 tables name the compressed cluster at %d twice", c.from)
	}
	q.inflated[c.from] = true
	in := io.NewSectionReader(q.f, c.from, min(c.bytes, q.fileBytes-c.from))
	out, err := q.decompressor(in)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.ReadFull(out, buf); err != nil {
		return failure.New(failure.Damaged, "qcow2 compressed cluster at %d: %w", c.from, err)
	}
	return nil
}

func (q *qcow2) decompressor(in io.Reader) (io.ReadCloser, error) {
	if q.compression == zstd {
		return pack.Unzstd(in)
	}
	return flate.NewReader(in), nil
}

// readCompression takes the kind of compression from the header, where an
// incompatible feature says that there is one.
func readCompression(header []byte, told bool) (compression, error) {
	if !told {
		return deflate, nil
	}
	if len(header) < 105 {
		return 0, failure.New(failure.Damaged, "qcow2 header of %d bytes tells no compression", len(header))
	}
	if kind := compression(header[104]); kind == deflate || kind == zstd {
		return kind, nil
	}
	return 0, failure.Hint(failure.New(failure.Incompatible, "qcow2 with compression %d", header[104]), "qemu-img convert -O raw")
}

func isZero(b []byte) bool {
	return len(bytes.TrimLeft(b, "\x00")) == 0
}

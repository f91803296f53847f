package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// Has leases a blob and then reports whether it exists with that many bytes.
func (i *Store) Has(ctx context.Context, l *store.Lease, d digest.Digest, size int64) (bool, error) {
	if err := l.Hold(ctx, d); err != nil {
		return false, err
	}
	fi, err := os.Stat(i.Path(d))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.Size() == size, err
}

// Land imports a blob from elsewhere: exactly size bytes of digest d, else
// failure.Damaged. It gets no name.
func (i *Store) Land(ctx context.Context, l *store.Lease, d digest.Digest, size int64, r io.Reader) error {
	if err := i.st.Space().Require(size); err != nil {
		return err
	}
	s := &staged{i: i, lease: l}
	var err error
	if s.path, err = s.fresh(); err != nil {
		return err
	}
	if err := s.fill(r, size); err != nil {
		return errors.Join(fmt.Errorf("take in image blob %s: %w", d, err), s.drop())
	}
	got, n, err := s.digest(ctx)
	if err == nil && (got != d || n != size) {
		err = failure.New(failure.Damaged, "%d bytes of digest %s came for image blob %s of %d", n, got, d, size)
	}
	if err != nil {
		return errors.Join(err, s.drop())
	}
	return s.name(ctx, d)
}

// holeBytes is the unit in which zeros become holes again.
const holeBytes = 64 << 10

// fill writes at most one byte more than it should get, so that a source that
// is too long is seen; stretches of zeros become holes.
func (s *staged) fill(r io.Reader, size int64) error {
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = copySparse(f, io.LimitReader(r, size+1))
	return errors.Join(err, f.Sync(), f.Close())
}

func copySparse(f *os.File, r io.Reader) error {
	zeros, buf := make([]byte, holeBytes), make([]byte, holeBytes)
	for end := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], end); err != nil {
				return err
			}
		}
		end += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return f.Truncate(end)
		}
		if err != nil {
			return err
		}
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/pack"
)

// BlobPath is where a blob lies or would lie.
func (s *Store) BlobPath(d digest.Digest) string { return s.Path("blobs", "sha256", blobName(d)) }

// ImageBlobPath is where an image blob lies.
func (s *Store) ImageBlobPath(d digest.Digest) string {
	return s.Path("images", "blobs", "sha256", blobName(d))
}

// blobName is the name of a blob's file. What is no digest has one that nothing
// ever has: no document leads out of the folder by what it calls a digest.
func blobName(d digest.Digest) string {
	if !document.IsSHA256(d) {
		return "no-digest"
	}
	return d.Encoded()
}

// ReadBlob loads a small blob and checks its digest.
func (s *Store) ReadBlob(ctx context.Context, d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, failure.New(failure.Damaged, "blob %q: %w", d, err)
	}
	b, err := blobDocument.Read(s.BlobPath(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "no blob %s", d)
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	if got := digest.FromBytes(b); got != d {
		return nil, failure.New(failure.Damaged, "blob %s has digest %s", d, got)
	}
	return b, nil
}

// OpenPack opens a pack for reading; its pages are verified by store/pack.
func (s *Store) OpenPack(ctx context.Context, d digest.Digest) (pack.ReaderAtCloser, int64, error) {
	f, err := os.OpenFile(s.BlobPath(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, failure.New(failure.Damaged, "pack %s is missing", d)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open pack %s: %w", d, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// sendGraph sends a manifest after the blobs it names, each once. If the manifest
// is there, they are too.
func (r *repository) sendGraph(ctx context.Context, o *outgoing, root ocispec.Descriptor, count func(d ocispec.Descriptor, there bool)) error {
	there, err := r.has(ctx, root)
	if err != nil {
		return err
	}
	if there {
		count(root, true)
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.concurrency)
	for _, d := range o.below[root.Digest] {
		g.Go(func() error {
			there, err := r.has(gctx, d)
			if err == nil && !there {
				err = r.upload(gctx, o, d)
			}
			if err == nil {
				count(d, there)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	err = r.try(ctx, func() error { return r.Push(ctx, root, bytes.NewReader(o.inline[root.Digest])) })
	if err != nil {
		return fmt.Errorf("manifest %s: %w", root.Digest, err)
	}
	count(root, false)
	return nil
}

func (r *repository) has(ctx context.Context, d ocispec.Descriptor) (there bool, err error) {
	err = r.try(ctx, func() error {
		there, err = r.Exists(ctx, d)
		return err
	})
	return there, err
}

// upload sends a blob, each time from its beginning; the registry cleans up
// failed uploads.
func (r *repository) upload(ctx context.Context, o *outgoing, d ocispec.Descriptor) error {
	err := r.try(ctx, func() error {
		f, err := o.open(ctx, d.Digest)
		if err != nil {
			return &ownError{err}
		}
		defer f.Close()
		body := &ownReader{r: f}
		err = r.Blobs().Push(ctx, d, body)
		if own := body.failed.Load(); own != nil {
			return own
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return nil
}

// ownError is a local file that cannot be read: not a failure of the registry.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// ownReader remembers a failed read; the sender may still read after the answer
// came.
type ownReader struct {
	r      io.Reader
	failed atomic.Pointer[ownError]
}

func (o *ownReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrClosed) {
		o.failed.Store(&ownError{err})
	}
	return n, err
}

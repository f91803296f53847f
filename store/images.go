package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/immutable"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// An image blob is shared by VMs that run and snapshots that are to be restored, so
// nobody may change it: VMMs open it read-only and hold a shared lock on it
// (vm.Launch), its mode is 0400, and where the file system has the attribute it
// can be made immutable, until the collector takes it.

// imageMode is that of every image blob.
const imageMode = 0o400

// ImageBlobPath is where an image blob lies.
func (s *Store) ImageBlobPath(d digest.Digest) string {
	return s.Path("images", "blobs", "sha256", blobName(d))
}

// ImageInUse tells whether a VMM that lives stands on an image blob, whatever
// records say.
func (s *Store) ImageInUse(d digest.Digest) (bool, error) {
	return filelock.HeldAtAll(s.ImageBlobPath(d))
}

// ImageGuard counts image blobs by what keeps them from being changed.
type ImageGuard struct {
	Blobs     int
	OtherMode int  // their mode is not 0400
	Immutable int  // they have the attribute
	Possible  bool // the file system has it, and we may set it
}

// LookAtImages changes nothing.
func (s *Store) LookAtImages(ctx context.Context) (ImageGuard, error) {
	g := ImageGuard{Possible: true}
	err := s.eachImage(ctx, func(path string, fi os.FileInfo) error {
		g.Blobs++
		if fi.Mode().Perm() != imageMode {
			g.OtherMode++
		}
		is, err := immutable.Is(path)
		if errors.Is(err, errors.ErrUnsupported) {
			g.Possible, err = false, nil
		}
		if is {
			g.Immutable++
		}
		return err
	})
	return g, err
}

// GuardImages gives every image blob its mode and, where that is possible, the
// attribute. The answer is how many it changed.
func (s *Store) GuardImages(ctx context.Context) (changed int, err error) {
	err = s.eachImage(ctx, func(path string, fi os.FileInfo) error {
		return s.at.Shared(ctx, func() error { // no collector is taking it just now
			is, err := immutable.Is(path)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			possible := !errors.Is(err, errors.ErrUnsupported)
			if err != nil && possible {
				return err
			}
			if is && fi.Mode().Perm() == imageMode {
				return nil
			}
			if fi.Mode().Perm() != imageMode {
				changed++
				if err := errors.Join(thaw(path, is), os.Chmod(path, imageMode)); err != nil {
					return err
				}
			}
			if !possible {
				return nil
			}
			err = immutable.Set(path, true)
			if errors.Is(err, errors.ErrUnsupported) {
				return nil
			}
			changed++
			return err
		})
	})
	return changed, err
}

func thaw(path string, frozen bool) error {
	if !frozen {
		return nil
	}
	return immutable.Set(path, false)
}

// eachImage visits the regular files that are image blobs.
func (s *Store) eachImage(ctx context.Context, visit func(path string, fi os.FileInfo) error) error {
	entries, err := os.ReadDir(s.Path("images", "blobs", "sha256"))
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) || err == nil && (!spelling.Hex(e.Name(), 64) || !fi.Mode().IsRegular()) {
			continue
		}
		if err == nil {
			err = visit(s.Path("images", "blobs", "sha256", e.Name()), fi)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("image blob %s: %w", e.Name(), err)
		}
	}
	return nil
}

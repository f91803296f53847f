package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/immutable"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// An image blob is shared by running VMs and snapshots yet to be restored, so it
// must never change: VMMs open it read-only and hold a shared lock on it
// (vm.Launch), its mode is 0400, and if the file system supports it, it can be
// made immutable until the collector removes it.

// blobMode is that of every image blob.
const blobMode = 0o400

// InUse reports whether a living VMM uses an image blob, whatever records say.
func (i *Store) InUse(d digest.Digest) (bool, error) { return filelock.HeldAtAll(i.Path(d)) }

// Guard counts image blobs by their protection against changes.
type Guard struct {
	Blobs     int
	OtherMode int  // their mode is not 0400
	Immutable int  // they have the attribute
	Possible  bool // the file system has it, and we may set it
}

// LookAtGuard only counts.
func (i *Store) LookAtGuard(ctx context.Context) (Guard, error) {
	g := Guard{Possible: true}
	err := i.eachBlob(ctx, func(d digest.Digest, fi os.FileInfo) error {
		g.Blobs++
		if fi.Mode().Perm() != blobMode {
			g.OtherMode++
		}
		is, err := immutable.Is(i.Path(d))
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

// Guard gives every image blob its mode and, if possible, the attribute. It
// returns the number of changes.
func (i *Store) Guard(ctx context.Context) (changed int, err error) {
	l, err := i.st.LeaseToRead(ctx, "guarding image blobs") // on a full disk too
	if err != nil {
		return 0, err
	}
	err = i.eachBlob(ctx, func(d digest.Digest, fi os.FileInfo) error {
		if err := l.Hold(ctx, d); err != nil { // no collector removes it just now
			return err
		}
		n, err := guard(i.Path(d), fi)
		changed += n
		return err
	})
	return changed, errors.Join(err, l.Release())
}

// guard gives one blob its mode and the attribute.
func guard(path string, fi os.FileInfo) (changed int, err error) {
	is, err := immutable.Is(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	possible := !errors.Is(err, errors.ErrUnsupported)
	if err != nil && possible {
		return 0, err
	}
	if is && fi.Mode().Perm() == blobMode {
		return 0, nil
	}
	if fi.Mode().Perm() != blobMode {
		changed++
		if err := errors.Join(thaw(path, is), os.Chmod(path, blobMode)); err != nil {
			return changed, err
		}
	}
	if !possible {
		return changed, nil
	}
	err = immutable.Set(path, true)
	if errors.Is(err, errors.ErrUnsupported) {
		return changed, nil
	}
	return changed + 1, err
}

func thaw(path string, frozen bool) error {
	if !frozen {
		return nil
	}
	return immutable.Set(path, false)
}

// eachBlob visits the regular files that are image blobs.
func (i *Store) eachBlob(ctx context.Context, visit func(d digest.Digest, fi fs.FileInfo) error) error {
	entries, err := os.ReadDir(i.st.Path("images", "blobs", "sha256"))
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
			err = visit(digest.NewDigestFromEncoded(digest.SHA256, e.Name()), fi)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("image blob %s: %w", e.Name(), err)
		}
	}
	return nil
}

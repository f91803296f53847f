package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Quarantine marks a snapshot, and remembers of the damaged objects, as
// [Quarantine] has them, which blobs are not to be trusted by their size alone.
func (s *Store) Quarantine(ctx context.Context, id ID, objects []string) error {
	for _, o := range objects {
		if blob, ok := strings.CutPrefix(o, "blob sha256:"); ok {
			if err := s.noteDamage(blob); err != nil {
				return err
			}
		}
	}
	return s.SetMeta(ctx, id, func(m *Meta) error {
		m.Quarantine = &Quarantine{Since: time.Now().UTC(), Objects: objects}
		return nil
	})
}

// noteDamage notes that a blob's file holds something else. The note is derived: it
// only makes Has look twice.
func (s *Store) noteDamage(hex string) error {
	if err := durable.Mkdir(s.Path("cache", "damaged"), 0o700); err != nil {
		return err
	}
	return noteDocument.Write(s.Path("cache", "damaged", hex), nil, 0o600)
}

// foundDamaged reports whether a blob was once found damaged.
func (s *Store) foundDamaged(d digest.Digest) bool {
	_, err := os.Lstat(s.Path("cache", "damaged", blobName(d)))
	return err == nil
}

// sound reads a whole blob and compares it with its digest.
func (s *Store) sound(d digest.Digest) (bool, error) {
	f, err := os.OpenFile(s.BlobPath(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return false, nil // what cannot be read is not sound
	}
	return digest.NewDigest(digest.SHA256, sum) == d, nil
}

// Replace puts what write gives in the place of a blob that is damaged; what has
// another digest is not kept.
func (in *Ingest) Replace(d digest.Digest, write func(io.Writer) error) error {
	f, err := in.create()
	if err != nil {
		return err
	}
	sum := sha256.New()
	if err = write(io.MultiWriter(f, sum)); err == nil && digest.NewDigest(digest.SHA256, sum) != d {
		err = failure.New(failure.Damaged, "what was to replace blob %s has another digest", d)
	}
	if err != nil {
		return errors.Join(err, f.discard())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	durable.Step("store.repair.written")
	if err := in.st.replace(f.Name(), d); err != nil {
		return fmt.Errorf("replace blob %s: %w", d, err)
	}
	durable.Step("store.repair.replaced")
	return nil
}

// replace puts a blob that is known to be right in the place of one that is
// not. Whoever has the old file open keeps it.
func (s *Store) replace(path string, d digest.Digest) error {
	if err := durable.Replace(path, s.BlobPath(d)); err != nil {
		return err
	}
	if err := durable.SyncParents(path, s.BlobPath(d)); err != nil {
		return err
	}
	err := os.Remove(s.Path("cache", "damaged", blobName(d)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

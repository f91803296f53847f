package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// Quarantine is the mark on a damaged snapshot. Nothing is moved: what is sound
// of it may be needed by others, and may help to heal it.
type Quarantine struct {
	Since   time.Time `json:"since"`
	Objects []string  `json:"objects"` // as in Damage
}

// Usable refuses what must not be restored, exported or built upon.
func (sn *Snapshot) Usable() error {
	if sn.State == readyState {
		return nil
	}
	return failure.Hint(failure.New(failure.Damaged, "snapshot %s is %s", sn.ID, sn.State),
		"see what is wrong with: cocoon snapshot verify --read-data "+string(sn.ID)+"; try cocoon system repair")
}

// quarantineDamaged marks the snapshots that a report names, and remembers the
// blobs that are not to be trusted by size alone.
func (s *Store) quarantineDamaged(ctx context.Context, rep *VerifyReport) error {
	objects := map[ID][]string{}
	var order []ID
	for _, d := range rep.Damaged {
		if blob, ok := strings.CutPrefix(d.Object, "blob sha256:"); ok {
			if err := s.suspect(blob); err != nil {
				return err
			}
		}
		for _, id := range d.Affects {
			if objects[id] == nil {
				order = append(order, id)
			}
			objects[id] = append(objects[id], d.Object)
		}
	}
	var errs []error
	for _, id := range order {
		err := s.SetMeta(ctx, id, func(m *Meta) error {
			m.Quarantine = &Quarantine{Since: time.Now().UTC(), Objects: objects[id]}
			return nil
		})
		switch {
		case errors.Is(err, failure.NotFound): // removed meanwhile
		case errors.Is(err, failure.Damaged): // it cannot be marked, and is refused without
		case err != nil:
			errs = append(errs, err)
		default:
			rep.Quarantined = append(rep.Quarantined, id)
		}
	}
	return errors.Join(errs...)
}

// Release takes the mark from a snapshot that was found sound.
func (s *Store) Release(ctx context.Context, id ID) error {
	return s.SetMeta(ctx, id, func(m *Meta) error { m.Quarantine = nil; return nil })
}

// suspect notes that the blob's file holds something else. The note is derived:
// it only makes Has look twice.
func (s *Store) suspect(hex string) error {
	if err := durable.Mkdir(s.Path("cache", "damaged"), 0o700); err != nil {
		return err
	}
	return noteDocument.Write(s.Path("cache", "damaged", hex), nil, 0o600)
}

// suspected reports whether a blob was once found damaged.
func (s *Store) suspected(d digest.Digest) bool {
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

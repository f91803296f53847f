package space

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Reserve is what one ingest has set aside, and uses up.
type Reserve struct {
	s    Space
	file string

	mu       sync.Mutex
	reserved int64 // bytes of the file; guarded by mu, as the next two
	stored   int64 // blobs of the store and of this ingest, where there is a cap
	measured bool
}

// Reserve of the ingest with this folder.
func (s Space) Reserve(dir string) *Reserve {
	return &Reserve{s: s, file: filepath.Join(dir, reserveFile)}
}

// Take sets aside what the packs may need, so that another cannot take it
// meanwhile: n bytes of the file system and of the store's cap. The packs use it
// up; what is left goes with the ingest.
func (r *Reserve) Take(n int64) error {
	f, err := os.OpenFile(r.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	defer f.Close()
	err = r.s.allocate(f, n)
	if err == nil {
		err = r.s.RequireBlobs(0) // n is counted by now
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	r.mu.Lock()
	r.reserved = n
	r.mu.Unlock()
	return nil
}

const tmpfsMagic = 0x01021994

// allocate makes f n bytes long, and theirs the blocks where that costs nothing;
// tmpfs would clear each page, there the free space is only asked for.
func (s Space) allocate(f *os.File, n int64) error {
	if err := s.Require(n); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	err := error(unix.EOPNOTSUPP)
	if fs.Type != tmpfsMagic {
		err = unix.Fallocate(int(f.Fd()), 0, 0, n)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return f.Truncate(n)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return failure.Hint(failure.New(failure.NoSpace, "%d bytes may be needed below %s: %w", n, s.at.Root(), err), s.makeRoom(n))
	case err != nil:
		return fmt.Errorf("reserve space: %w", err)
	}
	return nil
}

// Use gives the file system back what the next pack may take.
func (r *Reserve) Use() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reserved == 0 {
		return nil
	}
	r.reserved = max(0, r.reserved-pack.MaxPackBytes)
	return os.Truncate(r.file, r.reserved)
}

// Spend counts a new blob against the cap: whatever could not foresee its size, an
// import or a pull, ends here rather than pass it.
func (r *Reserve) Spend(n int64) error {
	if r.s.most <= 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reserved > 0 {
		return nil
	}
	if !r.measured {
		var err error
		if r.stored, err = r.s.blobBytes(); err != nil {
			return err
		}
		r.measured = true
	}
	if r.stored+n > r.s.most {
		return r.s.full(r.stored, n)
	}
	r.stored += n
	return nil
}

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store/pack"
)

// spaceMargin stays free, so that manifests, records and gc still work.
const spaceMargin = 16 << 20

// free is what may still be written below the root, the margin not left out.
func (s *Store) free() (int64, error) {
	free, _, err := hostfacts.FreeBytes(s.at.Root())
	return free, err
}

// Require refuses with failure.NoSpace unless n bytes are free. What the dead had
// reserved is given back before anybody is refused.
func (s *Store) Require(n int64) error {
	free, err := s.free()
	if err == nil && free < n+spaceMargin {
		if err = s.dropDeadReserves(); err == nil {
			free, err = s.free()
		}
	}
	if err != nil {
		return err
	}
	if free < n+spaceMargin {
		return failure.Hint(failure.New(failure.NoSpace, "%d bytes may be needed below %s and %d must stay free, %d are free", n, s.at.Root(), int64(spaceMargin), free), s.makeRoom(n+spaceMargin-free))
	}
	return nil
}

// Room is what the store's file system has for something to be made, bytes.
type Room struct {
	Free int64 // now, without the margin that stays free
	Dead int64 // more, once what dead captures had set aside is given back
}

// Room looks and changes nothing; Require makes of it what it can.
func (s *Store) Room() (r Room, err error) {
	if r.Free, err = s.free(); err != nil {
		return r, err
	}
	r.Free -= spaceMargin
	dead, err := s.deadIngests()
	for _, dir := range dead {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, reserveFile), &st) == nil {
			r.Dead += st.Blocks * 512
		}
	}
	return r, err
}

// makeRoom is the hint that frees n bytes: gc alone where what nobody owns is
// as much.
func (s *Store) makeRoom(n int64) string {
	if s.strayBytes() >= n {
		return "cocoon gc frees what commands that died have left"
	}
	return "remove snapshots and run cocoon gc"
}

// strayBytes is what the ingests of dead holders and the trash occupy. What
// cannot be read does not count: a hint is built on it, no more.
func (s *Store) strayBytes() int64 {
	sum := treeBytes(s.Path("trash"))
	dead, _ := s.deadIngests()
	for _, dir := range dead {
		sum += treeBytes(dir)
	}
	return sum
}

// deadIngests are the folders of ingests whose lease nobody holds. An ingest is
// begun when its lease is held and no lease comes a second time: it stays dead.
func (s *Store) deadIngests() ([]string, error) {
	entries, err := os.ReadDir(s.Path("ingest"))
	if err != nil {
		return nil, fmt.Errorf("look for dead ingests: %w", err)
	}
	var dead []string
	for _, e := range entries {
		lives, err := s.Leases().Lives(e.Name())
		if err != nil {
			return nil, err
		}
		if !lives {
			dead = append(dead, s.Path("ingest", e.Name()))
		}
	}
	return dead, nil
}

// dropDeadReserves gives back what captures that died had set aside. The rest of
// their ingests is for gc.
func (s *Store) dropDeadReserves() error {
	dead, err := s.deadIngests()
	if err != nil {
		return err
	}
	for _, dir := range dead {
		if err := os.Remove(filepath.Join(dir, reserveFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("give back reserved space: %w", err)
		}
	}
	return nil
}

// WorstCase is what packs of n bytes may take when nothing of it is zero, known
// or compressible: the pages, their hashes and frame headers.
func WorstCase(n int64) int64 { return n + n/128 }

// blobBytes sums the blobs that are there and what running captures reserved.
func (s *Store) blobBytes() (int64, error) {
	var sum int64
	for _, dir := range []string{s.Path("blobs", "sha256"), s.Path("ingest")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return 0, fmt.Errorf("measure the store: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() {
				path = filepath.Join(path, reserveFile)
			}
			fi, err := os.Lstat(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("measure the store: %w", err)
			}
			sum += fi.Size()
		}
	}
	return sum, nil
}

// RequireBlobs refuses with failure.NoSpace if n more bytes of blobs could pass
// the cap of the store.
func (s *Store) RequireBlobs(n int64) error {
	if s.maxBytes <= 0 {
		return nil
	}
	used, err := s.blobBytes()
	if err == nil && used+n > s.maxBytes {
		if err = s.dropDeadReserves(); err == nil {
			used, err = s.blobBytes()
		}
	}
	if err != nil || used+n <= s.maxBytes {
		return err
	}
	return s.full(used, n)
}

func (s *Store) full(used, n int64) error {
	return failure.Hint(failure.New(failure.NoSpace, "%d bytes of blobs are stored or reserved and %d more may come, above the cap of %d (maxStoreSize)", used, n, s.maxBytes),
		"cocoon snapshot prune, then cocoon gc; or raise the cap")
}

// reserveFile in the folder of an ingest takes the place of what is to be
// written.
const reserveFile = "reserve"

// Reserve sets aside what this ingest's packs may need, so that another cannot
// take it meanwhile: n bytes of the file system and of the store's cap. The
// packs use it up; what is left goes with the ingest.
func (in *Ingest) Reserve(n int64) error {
	f, err := os.OpenFile(filepath.Join(in.dir, reserveFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	defer f.Close()
	err = in.st.allocate(f, n)
	if err == nil {
		err = in.st.RequireBlobs(0) // n is counted by now
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	in.mu.Lock()
	in.reserved = n
	in.mu.Unlock()
	return nil
}

const tmpfsMagic = 0x01021994

// allocate makes f n bytes long, and theirs the blocks where that costs nothing;
// tmpfs would clear each page, there the free space is only asked for.
func (s *Store) allocate(f *os.File, n int64) error {
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

// useReserve gives the file system back what the next pack may take.
func (in *Ingest) useReserve() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.reserved == 0 {
		return nil
	}
	in.reserved = max(0, in.reserved-pack.MaxPackBytes)
	return os.Truncate(filepath.Join(in.dir, reserveFile), in.reserved)
}

// spend counts a new blob against the cap: whatever could not foresee its size,
// an import or a pull, ends here rather than pass it.
func (in *Ingest) spend(n int64) error {
	if in.st.maxBytes <= 0 {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.reserved > 0 {
		return nil
	}
	if !in.measured {
		var err error
		if in.stored, err = in.st.blobBytes(); err != nil {
			return err
		}
		in.measured = true
	}
	if in.stored+n > in.st.maxBytes {
		return in.st.full(in.stored, n)
	}
	in.stored += n
	return nil
}

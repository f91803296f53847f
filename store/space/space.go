// Package space is the room that a store has: on its file system, and below the
// cap on its blobs.
//
// Whatever can be foreseen is refused before it is begun (Require, RequireBlobs),
// and what a capture may need is set aside for it in a file of its ingest (Reserve),
// so that two of them do not promise themselves the same bytes. What a holder who
// died had set aside counts for nobody: it is given back before anybody is refused.
package space

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Space of one store.
type Space struct {
	at   *layout.Layout
	most int64 // of the blobs; 0 is no cap
	// lives tells whether the holder of an ingest's lease is alive.
	lives func(id string) (bool, error)
}

// Of a store with a cap of so many bytes on its blobs, 0 for none; lives is that of
// its leases.
func Of(at *layout.Layout, most int64, lives func(id string) (bool, error)) Space {
	return Space{at, most, lives}
}

// margin stays free, so that manifests, records and gc still work.
const margin = 16 << 20

// free is what may still be written below the root, the margin not left out.
func (s Space) free() (int64, error) {
	free, _, err := hostfacts.FreeBytes(s.at.Root())
	return free, err
}

// Require refuses with failure.NoSpace unless n bytes are free. What the dead had
// reserved is given back before anybody is refused.
func (s Space) Require(n int64) error {
	free, err := s.free()
	if err == nil && free < n+margin {
		if err = s.dropDeadReserves(); err == nil {
			free, err = s.free()
		}
	}
	if err != nil {
		return err
	}
	if free < n+margin {
		return failure.Hint(failure.New(failure.NoSpace, "%d bytes may be needed below %s and %d must stay free, %d are free", n, s.at.Root(), int64(margin), free), s.makeRoom(n+margin-free))
	}
	return nil
}

// Room is what the store's file system has for something to be made, bytes.
type Room struct {
	Free int64 // now, without the margin that stays free
	Dead int64 // more, once what dead captures had set aside is given back
}

// Room looks and changes nothing; Require makes of it what it can.
func (s Space) Room() (r Room, err error) {
	if r.Free, err = s.free(); err != nil {
		return r, err
	}
	r.Free -= margin
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
func (s Space) makeRoom(n int64) string {
	if s.strayBytes() >= n {
		return hint.Collect.Of() + " frees what commands that died have left"
	}
	return "remove snapshots and run " + hint.Collect.Of()
}

// strayBytes is what the ingests of dead holders and the trash occupy. What
// cannot be read does not count: a hint is built on it, no more.
func (s Space) strayBytes() int64 {
	sum := hostfacts.FileBytes(s.at.Path("trash"))
	dead, _ := s.deadIngests()
	for _, dir := range dead {
		sum += hostfacts.FileBytes(dir)
	}
	return sum
}

// deadIngests are the folders of ingests whose lease nobody holds. An ingest is
// begun when its lease is held and no lease comes a second time: it stays dead.
func (s Space) deadIngests() ([]string, error) {
	entries, err := os.ReadDir(s.at.Path("ingest"))
	if err != nil {
		return nil, fmt.Errorf("look for dead ingests: %w", err)
	}
	var dead []string
	for _, e := range entries {
		lives, err := s.lives(e.Name())
		if err != nil {
			return nil, err
		}
		if !lives {
			dead = append(dead, s.at.Path("ingest", e.Name()))
		}
	}
	return dead, nil
}

// dropDeadReserves gives back what captures that died had set aside. The rest of
// their ingests is for gc.
func (s Space) dropDeadReserves() error {
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
func (s Space) blobBytes() (int64, error) {
	var sum int64
	for _, dir := range []string{s.at.Path("blobs", "sha256"), s.at.Path("ingest")} {
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
func (s Space) RequireBlobs(n int64) error {
	if s.most <= 0 {
		return nil
	}
	used, err := s.blobBytes()
	if err == nil && used+n > s.most {
		if err = s.dropDeadReserves(); err == nil {
			used, err = s.blobBytes()
		}
	}
	if err != nil || used+n <= s.most {
		return err
	}
	return s.full(used, n)
}

func (s Space) full(used, n int64) error {
	return failure.Hint(failure.New(failure.NoSpace, "%d bytes of blobs are stored or reserved and %d more may come, above the cap of %d (maxStoreSize)", used, n, s.most),
		hint.Prune.Of()+", then "+hint.Collect.Of()+"; or raise the cap")
}

// reserveFile in the folder of an ingest takes the place of what is to be
// written.
const reserveFile = "reserve"

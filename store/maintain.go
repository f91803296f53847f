package store

import (
	"context"
	"errors"
	"time"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
)

// Maintenance is the right to do what only one process may do at a time: to
// collect, and to replace the manifest of a published snapshot. Only who holds
// gc.lock has one.
type Maintenance struct {
	st     *Store
	lock   *filelock.Lock
	who    string
	locked time.Duration
}

// Maintain takes gc.lock. Another who has it, and does not give it up within
// wait, is failure.Busy, which names him.
func (s *Store) Maintain(ctx context.Context, wait time.Duration, who string) (*Maintenance, error) {
	path := s.Path("gc.lock")
	lock, err := filelock.TryExclusive(path)
	if errors.Is(err, filelock.ErrLocked) && wait > 0 {
		wctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		lock, err = filelock.Exclusive(wctx, path)
	}
	if errors.Is(err, filelock.ErrLocked) {
		return nil, failure.New(failure.Busy, "another gc is running: %s", filelock.ReadNote(path))
	}
	if err != nil {
		return nil, err
	}
	return &Maintenance{st: s, lock: lock, who: who}, lock.Note(who)
}

// End gives gc.lock up.
func (m *Maintenance) End() error { return m.lock.Unlock() }

// Locked is the longest that the store was locked at once to replace a manifest.
func (m *Maintenance) Locked() time.Duration { return m.locked }

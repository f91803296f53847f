package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/store/trash"
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
	m, err := s.Survey(ctx, wait, who)
	if err != nil {
		return nil, err
	}
	if m.lock == nil {
		return nil, fmt.Errorf("%s: no lock can be made: %w", who, unix.EROFS)
	}
	// Whose lock it is need not be known on a disk that is full: that is what a
	// collector comes for. On one that is read-only there is nothing to do.
	if err := m.lock.Note(who); err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return nil, errors.Join(err, m.End())
	}
	return m, nil
}

// Survey is Maintain for who changes nothing, and need not be able to.
func (s *Store) Survey(ctx context.Context, wait time.Duration, who string) (*Maintenance, error) {
	path := s.Path("gc.lock")
	lock, err := filelock.TryExclusive(path)
	if errors.Is(err, filelock.ErrLocked) && wait > 0 {
		wctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		lock, err = filelock.Exclusive(wctx, path)
	}
	if errors.Is(err, filelock.ErrLocked) || errors.Is(err, failure.Busy) {
		return nil, s.Leases().KeptOut()
	}
	if durable.CannotWrite(err) {
		err = nil // no collector ever came, and none can
	}
	if err != nil {
		return nil, err
	}
	return &Maintenance{st: s, lock: lock, who: who}, nil
}

// Lease is one for what the holder does, which this says.
func (m *Maintenance) Lease(ctx context.Context, doing string) (*Lease, error) {
	return m.st.Lease(ctx, m.who+": "+doing)
}

// Trash is what only a collector may do with it.
func (m *Maintenance) Trash() trash.Collector { return trash.Collector{Trash: m.st.Trash()} }

// End gives gc.lock up.
func (m *Maintenance) End() error { return m.lock.Unlock() }

// Locked is the longest that the store was locked at once to replace a manifest.
func (m *Maintenance) Locked() time.Duration { return m.locked }

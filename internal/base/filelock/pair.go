package filelock

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Pair is a readers-writer lock whose writers never starve: every process takes
// the gate first and releases it as soon as it has the store lock. A waiting
// writer keeps the gate, so new readers queue behind it while old ones drain.
//
// A reader may still be slow (it makes a file while the disk is busy), and those
// behind the gate would wait for it too. So a writer opens the gate again after a
// moment, and keeps it longer each time.
//
// The gate alone protects nothing. Both files are never unlinked.
type Pair struct{ Gate, Store string }

// Shared waits for the store lock among readers. Hold it for instants only.
func (p Pair) Shared(ctx context.Context) (*Lock, error) {
	g, err := wait(ctx, p.Gate, unix.LOCK_SH, instantPause)
	if err != nil {
		return nil, err
	}
	l, err := wait(ctx, p.Store, unix.LOCK_SH, instantPause)
	if err := errors.Join(err, g.Unlock()); err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return l, nil
}

// firstPatience is how long a writer keeps the gate the first time.
const firstPatience = time.Millisecond

// Exclusive waits for the store lock alone.
func (p Pair) Exclusive(ctx context.Context) (*Lock, error) {
	gate, store := newNotice(ctx, p.Gate), newNotice(ctx, p.Store)
	ctx, cancel := store.bound(ctx)
	defer cancel()
	for patience := firstPatience; ; patience *= 2 {
		l, err := p.exclusive(ctx, patience, gate, store)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return nil, explain(p.inTheWay(), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(patience):
		}
	}
}

// inTheWay is the lock that another process holds.
func (p Pair) inTheWay() string {
	if WhoHolds(p.Store) == nil && WhoHolds(p.Gate) != nil {
		return p.Gate
	}
	return p.Store
}

func (p Pair) exclusive(ctx context.Context, patience time.Duration, gate, store *notice) (*Lock, error) {
	g, err := alone(ctx, gate)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l, err := alone(bounded, store)
	if err := errors.Join(err, g.Unlock()); err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return l, nil
}

// alone is a wait that n reports, and whose failure Exclusive explains.
func alone(ctx context.Context, n *notice) (*Lock, error) {
	f, err := open(n.path)
	if err != nil {
		return nil, err
	}
	return poll(ctx, f, n.path, unix.LOCK_EX, instantPause, n)
}

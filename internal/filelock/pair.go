package filelock

import (
	"context"
	"errors"
)

// Pair is a readers-writer lock whose writers never starve: everybody takes the
// gate first and drops it as soon as the store lock is had. A waiting writer
// keeps the gate, so new readers queue behind it while old ones drain.
//
// The gate alone protects nothing. Both files are never unlinked.
type Pair struct{ Gate, Store string }

// Shared waits for the store lock among readers. Hold it for instants only.
func (p Pair) Shared(ctx context.Context) (*Lock, error) {
	return p.take(ctx, Shared, Shared)
}

// Exclusive waits for the store lock alone.
func (p Pair) Exclusive(ctx context.Context) (*Lock, error) {
	return p.take(ctx, Exclusive, Exclusive)
}

type taker func(context.Context, string) (*Lock, error)

func (p Pair) take(ctx context.Context, gate, store taker) (*Lock, error) {
	g, err := gate(ctx, p.Gate)
	if err != nil {
		return nil, err
	}
	l, err := store(ctx, p.Store)
	if err := errors.Join(err, g.Unlock()); err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return l, nil
}

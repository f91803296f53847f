package filelock

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// Waits configures what happens while a lock is waited for: the wait is reported
// with its holder, and a lock that is held for instants only is not waited for
// once its holder hangs.
type Waits struct {
	// Tell is called once for each wait that has lasted After; it may be nil.
	Tell  func(Waiting)
	After time.Duration
	// Bound is how long to wait for a lock that is held for instants, before
	// failure.Busy; nil waits for ever.
	Bound func() time.Duration
}

// Waiting is a wait under way.
type Waiting struct {
	Path   string
	Holder *Holder // nil if none can be seen
}

func (w Waiting) String() string {
	who := "another process"
	if w.Holder != nil {
		who = w.Holder.String()
	}
	return fmt.Sprintf("waiting for the lock %s, held by %s", filepath.Base(w.Path), who)
}

type waitsKey struct{}

// WithWaits returns a context in which all waits for locks behave so.
func WithWaits(ctx context.Context, w Waits) context.Context {
	return context.WithValue(ctx, waitsKey{}, w)
}

// notice watches one wait.
type notice struct {
	Waits
	path  string
	begun time.Time
	told  bool
}

func newNotice(ctx context.Context, path string) *notice {
	w, _ := ctx.Value(waitsKey{}).(Waits)
	return &notice{Waits: w, path: path, begun: time.Now()}
}

// look reports the wait when it is due.
func (n *notice) look() {
	if n.told || n.Tell == nil || time.Since(n.begun) < n.After {
		return
	}
	n.told = true
	n.Tell(Waiting{n.path, WhoHolds(n.path)})
}

// bound returns the context of a wait for a lock that is held for instants.
func (n *notice) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if n.Bound == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, n.Bound())
}

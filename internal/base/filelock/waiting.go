package filelock

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// Waits says what becomes of a wait for a lock that is not had at once: somebody
// who looks on should know for whom, and a lock that is held for instants only is
// not waited for when its holder hangs.
type Waits struct {
	// Tell is called once for each wait that has lasted After; it may be nil.
	Tell  func(Waiting)
	After time.Duration
	// Bound is how long a lock that is held for instants is waited for, then it is
	// failure.Busy; nil is for ever.
	Bound func() time.Duration
}

// Waiting is a wait under way.
type Waiting struct {
	Path   string
	Holder *Holder // nil where none is to be seen
}

func (w Waiting) String() string {
	who := "another process"
	if w.Holder != nil {
		who = w.Holder.String()
	}
	return fmt.Sprintf("waiting for the lock %s, held by %s", filepath.Base(w.Path), who)
}

type waitsKey struct{}

// WithWaits is a context of which all waits for locks are such ones.
func WithWaits(ctx context.Context, w Waits) context.Context {
	return context.WithValue(ctx, waitsKey{}, w)
}

// notice watches over one wait.
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

// look tells of the wait if it is time.
func (n *notice) look() {
	if n.told || n.Tell == nil || time.Since(n.begun) < n.After {
		return
	}
	n.told = true
	n.Tell(Waiting{n.path, WhoHolds(n.path)})
}

// bound is the context of a wait for a lock that is held for instants.
func (n *notice) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if n.Bound == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, n.Bound())
}

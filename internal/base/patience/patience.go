// Package patience says how long cocoon waits for another process: a VMM, a
// guard, another command.
//
// Such a wait is limited so that no command hangs for ever, not because the other
// process should be quick. On a busy host everything takes thirty times as long,
// and nothing may fail that only needed more time. So every limit is derived here
// from one setting of the operator (vmmTimeout), and an error caused by it names
// that setting ([Within], [Passed]).
//
// Not derived from it, since nothing fails when they expire: intervals between
// retries, and delays before the next, harsher step of an escalation.
// docs/reliability.md lists those.
package patience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Patience is how long a process may take for one answer or one action. The zero
// value is Default.
type Patience time.Duration

// Default is the value of vmmTimeout if it is not set.
const Default = Patience(30 * time.Second)

// slowestBytes is the lowest rate at which RAM or disks are expected to move, per
// second.
const slowestBytes = 32 << 20

// Call limits one answer, one message, one change of state.
func (p Patience) Call() time.Duration {
	if p <= 0 {
		p = Default
	}
	return time.Duration(p)
}

// Moving limits a call that writes, reads, maps or releases so many bytes.
func (p Patience) Moving(bytes uint64) time.Duration {
	return p.Call() + time.Duration(bytes/slowestBytes)*time.Second
}

// leastSilence is how long other load may keep a process from running, whatever
// the setting for VMMs.
const leastSilence = 3 * time.Second

// Silence is how long a process that keeps a guest paused may show no sign of
// life.
func (p Patience) Silence() time.Duration { return max(p.Call()/3, leastSilence) }

// glance is the maximum of Glance.
const glance = 2 * time.Second

// Glance limits the time a command spends on VMs that it was not asked about.
func (p Patience) Glance() time.Duration { return min(p.Call(), glance) }

// over is why a context of Bound ended.
type over struct{ waited time.Duration }

func (o over) Error() string { return Within(o.waited) }

// Bound returns a context with a deadline made here; Passed says so once it has
// expired.
func Bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, over{d})
}

// Passed ends a sentence about what did not happen before the deadline of ctx.
func Passed(ctx context.Context) string {
	var o over
	if errors.As(context.Cause(ctx), &o) {
		return o.Error()
	}
	return "in time"
}

// Within ends a sentence about what did not happen within a time limit made here.
func Within(d time.Duration) string {
	return fmt.Sprintf("within %s (see vmmTimeout)", d.Round(time.Millisecond))
}

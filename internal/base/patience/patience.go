// Package patience says how long cocoon waits for a process that is not its own:
// a VMM, a guard, another command.
//
// Such a wait is bounded so that no command hangs for ever, not because what is
// waited for should be quick. On a busy host everything takes thirty times as
// long, and nothing may fail that only needed longer. So every bound is made
// here, of one figure that the operator sets (vmmTimeout), and an error that
// comes of one names it ([Within], [Passed]).
//
// What is not made of it, since nothing fails when it has passed: how often
// somebody is asked again, and how long the next, ruder step of an escalation is
// put off. docs/reliability.md lists those.
package patience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Patience is how long a process may take to say or do one thing. The zero value
// is Default.
type Patience time.Duration

// Default is vmmTimeout where nobody has set it.
const Default = Patience(30 * time.Second)

// slowestBytes is what moving RAM or disks makes at least, a second.
const slowestBytes = 32 << 20

// Call bounds one answer, one message, one change of state.
func (p Patience) Call() time.Duration {
	if p <= 0 {
		p = Default
	}
	return time.Duration(p)
}

// Moving bounds a call that writes, reads, maps or gives up so many bytes.
func (p Patience) Moving(bytes uint64) time.Duration {
	return p.Call() + time.Duration(bytes/slowestBytes)*time.Second
}

// leastSilence is what a process may be kept from running by others, whatever
// the operator thinks of VMMs.
const leastSilence = 3 * time.Second

// Silence is how long a process that holds a guest still may show no sign of
// life.
func (p Patience) Silence() time.Duration { return max(p.Call()/3, leastSilence) }

// glance is the most that Glance answers.
const glance = 2 * time.Second

// Glance bounds what a command spends on VMs that it was not asked about.
func (p Patience) Glance() time.Duration { return min(p.Call(), glance) }

// over is why a context of Bound ended.
type over struct{ waited time.Duration }

func (o over) Error() string { return Within(o.waited) }

// Bound is a context that lasts for a time that was made here; Passed says so
// when it is over.
func Bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, over{d})
}

// Passed ends a sentence on what did not happen before the deadline of ctx.
func Passed(ctx context.Context) string {
	var o over
	if errors.As(context.Cause(ctx), &o) {
		return o.Error()
	}
	return "in time"
}

// Within is the end of a sentence on what did not happen in a time that was made
// here.
func Within(d time.Duration) string {
	return fmt.Sprintf("within %s (see vmmTimeout)", d.Round(time.Millisecond))
}

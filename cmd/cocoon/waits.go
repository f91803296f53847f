package main

import (
	"context"
	"time"

	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/internal/patience"
)

// tellWait is after how long a wait for a lock is told of.
const tellWait = time.Second

// waiting makes every wait for a lock be told of on stderr: a command that stands
// still says for whom. Locks that are held for instants are waited for as long as
// vmmTimeout, and not for less than that is by default, since who holds one is
// another command on a busy host; then he hangs, and the answer is exit 7.
func (a *app) waiting(ctx context.Context) context.Context {
	return filelock.WithWaits(ctx, filelock.Waits{
		After: tellWait,
		Tell:  func(w filelock.Waiting) { a.tell(w.String()) },
		Bound: func() time.Duration {
			p, _ := a.config.Patience() // one that cannot be read was refused, or is not asked for yet
			return max(p.Call(), patience.Default.Call())
		},
	})
}

package house

import (
	"context"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// tellWait is after how long a wait for a lock is reported.
const tellWait = time.Second

// Waiting has every wait for a lock below ctx reported with its holder. Locks held for
// instants are waited for as long as vmmTimeout, at least its default, since the
// holder is another process on a busy host; after that it must be hanging, and
// the error is failure.Busy. The settings are read at each wait, since they may
// be loaded later.
func Waiting(ctx context.Context, settings func() Settings, tell func(text string)) context.Context {
	return filelock.WithWaits(ctx, filelock.Waits{
		After: tellWait,
		Tell:  func(w filelock.Waiting) { tell(w.String()) },
		Bound: func() time.Duration {
			p, _ := settings().Patience() // an invalid one was refused, or is not used yet
			return max(p.Call(), patience.Default.Call())
		},
	})
}

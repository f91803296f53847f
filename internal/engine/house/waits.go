package house

import (
	"time"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// tellWait is after how long a wait for a lock is told of.
const tellWait = time.Second

// Waits makes every wait for a lock be told of: a call that stands still says for
// whom. Locks that are held for instants are waited for as long as vmmTimeout, and
// not for less than that is by default, since who holds one is another process on a
// busy host; then it hangs, and the answer is failure.Busy. The settings are asked
// for at each wait, since they may be settled later.
func Waits(settings func() Settings, tell func(text string)) filelock.Waits {
	return filelock.Waits{
		After: tellWait,
		Tell:  func(w filelock.Waiting) { tell(w.String()) },
		Bound: func() time.Duration {
			p, _ := settings().Patience() // one that cannot be read was refused, or is not asked for yet
			return max(p.Call(), patience.Default.Call())
		},
	}
}

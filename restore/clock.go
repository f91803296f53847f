package restore

import (
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// GuestClock says what the guest's clock does about the time that has passed
// since the capture.
type GuestClock string

// The ways of a clock; the zero value of a request is CatchUp.
const (
	CatchUp    GuestClock = "catch-up"    // the time of day is right at once, the monotonic clock jumps
	StandStill GuestClock = "stand-still" // nothing jumps; the time of day is behind until the guest sets it
)

// clock is the choice, checked.
func (r Request) clock() (GuestClock, error) {
	switch r.Clock {
	case "", CatchUp:
		return CatchUp, nil
	case StandStill:
		if r.Cold {
			return "", failure.New(failure.Usage, "%s %s: a cold boot has no clock to hold", hint.Clock, r.Clock)
		}
		return StandStill, nil
	}
	return "", failure.New(failure.Usage, "%s %q: catch-up or stand-still", hint.Clock, string(r.Clock))
}

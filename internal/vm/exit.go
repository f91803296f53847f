package vm

import (
	"fmt"
	"time"
)

// Ways in which the VMM of a VM can have come to its end.
const (
	PoweredOff = "powered off" // the guest did so itself
	PowerCut   = "power cut"   // `vm stop`, which the guest did not follow in time
)

// Exit is how and when a VM last ceased to run.
type Exit struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	// Detail says more in words, for people; it may be empty.
	Detail string `json:"detail,omitempty"`
}

// String is for people: "powered off after 3.2s".
func (e *Exit) String() string {
	if e.Detail == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Detail
}

func newExit(reason, format string, args ...any) *Exit {
	return &Exit{Reason: reason, At: time.Now().UTC(), Detail: fmt.Sprintf(format, args...)}
}

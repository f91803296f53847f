package sim

import (
	"time"

	"golang.org/x/sys/unix"
)

// before applies a rule ahead of the call; stop means the reply is final.
func (m *machine) before(rule failRule, e endpoint) (r reply, stop bool) {
	switch rule.action {
	case actFail:
		return injected(e), true
	case actHang:
		hang()
	case actDie:
		die()
	case actSlow:
		time.Sleep(rule.delay)
	case actNoSpace:
		m.noSpace = true
	}
	return reply{}, false
}

// after applies a rule once the call was done.
func (m *machine) after(rule failRule, e endpoint) (r reply, stop bool) {
	switch rule.action {
	case actLateFail:
		return injected(e), true
	case actLateHang:
		hang()
	case actLateDie:
		die()
	}
	return reply{}, false
}

func injected(e endpoint) reply {
	return errorReply(asAPIError(e.outer, faultf("injected failure")))
}

// hang blocks the caller, which holds the machine, for ever.
func hang() { select {} }

// die ends the process as a crash would: no answer, no clean-up, files stay.
func die() {
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	hang()
}

// dieOfFilter is how a process ends whose own filter forbids the call that it
// makes.
func dieOfFilter() {
	_ = unix.Kill(unix.Getpid(), unix.SIGSYS)
	hang()
}

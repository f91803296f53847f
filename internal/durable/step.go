package durable

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Environment variables that name a step: to die there, or to stand still
// there until SIGCONT, so that a test can let another process run meanwhile.
const (
	KillAt = "COCOON_KILL_AT"
	StopAt = "COCOON_STOP_AT"
)

// visits counts how often the named step was reached. It is the one variable of
// the project that lives outside a value, for the crash it serves is one of the
// process.
var visits atomic.Int64

// Step marks a place between durable effects. When COCOON_KILL_AT is the name,
// the process sends itself SIGKILL there: no deferred call runs. With
// COCOON_STOP_AT it is SIGSTOP. "name#3" acts at the third visit. Otherwise Step
// does nothing.
//
// Names are room.verb.place ("store.commit.published").
func Step(name string) {
	if due(os.Getenv(KillAt), name) {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way
	}
	if due(os.Getenv(StopAt), name) {
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
}

func due(want, name string) bool {
	want, count, counted := strings.Cut(want, "#")
	if want != name {
		return false
	}
	n, err := strconv.ParseInt(count, 10, 64)
	return !counted || err != nil || visits.Add(1) == n
}

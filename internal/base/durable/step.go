package durable

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Environment variables. The first two name a step at which to die, or to stop
// until SIGCONT so that a test can let another process run meanwhile. The third
// names a file to which every step is written, one a line.
const (
	KillAt  = "COCOON_KILL_AT"
	StopAt  = "COCOON_STOP_AT"
	StepLog = "COCOON_STEP_LOG"
)

// visits counts how often the named step was reached. It is the one package-level
// variable of the project, since the crash it serves concerns the whole process.
var visits atomic.Int64

// Step marks a place between durable effects. When COCOON_KILL_AT is the name,
// the process sends itself SIGKILL there: no deferred call runs. With
// COCOON_STOP_AT it is SIGSTOP. "name#3" acts at the third visit. Otherwise Step
// does nothing.
//
// Names are room.verb.place ("store.commit.published").
func Step(name string) {
	if path := os.Getenv(StepLog); path != "" {
		logStep(path, name)
	}
	if due(os.Getenv(KillAt), name) {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way
	}
	if due(os.Getenv(StopAt), name) {
		// To this very thread: a signal to the process may be taken by another
		// thread, and this one would run on until that one is scheduled.
		runtime.LockOSThread()
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
		runtime.UnlockOSThread()
	}
}

// logStep is for tests, which notice a missing line; so write errors are ignored.
func logStep(path, name string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(name + "\n")
	_ = f.Close()
}

func due(want, name string) bool {
	want, count, counted := strings.Cut(want, "#")
	if want != name {
		return false
	}
	n, err := strconv.ParseInt(count, 10, 64)
	return !counted || err != nil || visits.Add(1) == n
}

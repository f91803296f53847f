// Package leaktest fails a test binary that ends with something of its own still
// alive: a goroutine, an open file, a lease.
//
// A package that opens files or starts goroutines calls it from TestMain:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
//
// A leak in one test shows at the end of all of them, for a test may hand over
// to the next; the message names what was left, not who left it.
package leaktest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// M runs tests, as testing.M does.
type M interface{ Run() int }

// Main runs the tests and ends the process.
func Main(m M) { os.Exit(Checked(m).Run()) }

// Checked is m with the checks behind its tests.
func Checked(m M) M { return checked{m} }

type checked struct{ M }

// Run fails where a test failed or something is left.
func (c checked) Run() int {
	before := descriptors()
	code := c.M.Run()
	if code != 0 {
		return code // a test that ended early explains what it left
	}
	if err := goleak.Find(); err != nil {
		fmt.Println("FAIL: goroutines are left behind:", err)
		code = 1
	}
	for _, what := range left(before) {
		fmt.Println("FAIL: left open:", what)
		code = 1
	}
	return code
}

// patience is how long finalizers and closing goroutines may take.
const patience = 2 * time.Second

// left are the descriptors that were not there before, in words.
func left(before map[string]string) []string {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var more []string
		now := descriptors()
		for _, fd := range slices.Sorted(maps.Keys(now)) {
			if before[fd] != now[fd] && !ofRuntime(now[fd]) {
				more = append(more, describe(fd, now[fd]))
			}
		}
		if len(more) == 0 || time.Now().After(deadline) {
			return more
		}
	}
}

// descriptors are the open ones of this process, with what they lead to.
func descriptors() map[string]string {
	found, _ := filepath.Glob("/proc/self/fd/*")
	open := map[string]string{}
	for _, path := range found {
		if to, err := os.Readlink(path); err == nil {
			open[filepath.Base(path)] = to
		}
	}
	return open
}

// ofRuntime: Go keeps an epoll and an event descriptor once it needed them, and
// a pidfd until a process was waited for.
func ofRuntime(to string) bool {
	return to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" || to == "anon_inode:[pidfd]"
}

func describe(fd, to string) string {
	what := fmt.Sprintf("descriptor %s, %s", fd, to)
	if strings.Contains(to, "/leases/") {
		what += " (a lease that was never released)"
	}
	return what
}

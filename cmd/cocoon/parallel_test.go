package main

import (
	"flag"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

// beside runs twice as many tests at once as there are processors, where -parallel
// does not say how many: each has a store, a run folder and processes of its own,
// and waits for a disk, a VMM or a timer half of its time.
type beside struct{ leaktest.M }

func (b beside) Run() int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err) // package testing has no such flag any more
		}
	}
	return b.M.Run()
}

// allAtOnce runs subtests that do little but wait, as if they were one: they keep no
// test waiting that has something to do.
func allAtOnce[C any](t *testing.T, cases map[string]C, test func(t *testing.T, c C)) {
	t.Helper()
	var running sync.WaitGroup
	for name, c := range cases {
		running.Go(func() {
			t.Run(name, func(t *testing.T) { test(t, c) })
		})
	}
	running.Wait()
}

// alone marks a process in which one test runs.
const alone = "COCOON_TEST_ALONE"

func isAlone() bool { return os.Getenv(alone) != "" }

// inAProcessOfItsOwn runs the calling test again in another process, where it may
// change the environment and the current folder while others run beside it. It is
// true there, where the body has to run, and false afterwards in the first life,
// which returns.
func inAProcessOfItsOwn(t *testing.T) bool {
	t.Helper()
	if isAlone() {
		return true
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.count=1", "-test.v")
	c.Env = append(os.Environ(), alone+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the process dies with the thread that started it
	defer runtime.UnlockOSThread()
	out, err := c.CombinedOutput()
	if t.Log(string(out)); err != nil {
		t.Errorf("in a process of its own: %v", err)
	}
	return false
}

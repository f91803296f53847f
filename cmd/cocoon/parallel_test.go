package main

import (
	"flag"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/leaktest"
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

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// took is one run of a command.
type took struct {
	wall time.Duration
	busy time.Duration // processor time, user and system
	peak int64         // largest resident set, bytes
	out  string
}

// timed runs a command to its end on two processors, once nothing waits for the
// disk that another has written.
func timed(env []string, argv ...string) (took, error) { return timedIn("", env, argv...) }

// timedIn does so in a folder.
func timedIn(dir string, env []string, argv ...string) (took, error) {
	if path, err := exec.LookPath("taskset"); err == nil {
		argv = append([]string{path, "-c", "0,1"}, argv...)
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr, c.Env = &out, &stderr, append(os.Environ(), env...)
	unix.Sync()
	start := time.Now()
	err := c.Run()
	t := took{wall: time.Since(start), out: strings.TrimSpace(out.String())}
	if err != nil {
		return t, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, stderr.String())
	}
	t.busy = c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	t.peak = c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return t, nil
}

// series collects the runs of one figure.
type series []took

// add takes the answer of timed: what it took, unless it failed.
func (s *series) add(t took, err error) error {
	if err == nil {
		*s = append(*s, t)
	}
	return err
}

func (s series) wall() time.Duration { return s.median(func(t took) time.Duration { return t.wall }) }

func (s series) busy() time.Duration { return s.median(func(t took) time.Duration { return t.busy }) }

func (s series) median(of func(took) time.Duration) time.Duration {
	all := make([]time.Duration, len(s))
	for i, t := range s {
		all[i] = of(t)
	}
	return median(all)
}

func (s series) peak() (most int64) {
	for _, t := range s {
		most = max(most, t.peak)
	}
	return most
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000) }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func ratio(a, b float64) string { return fmt.Sprintf("%.2f×", a/b) }

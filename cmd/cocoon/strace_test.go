package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// straceVerbs start no VMM: strace would follow it too.
var straceVerbs = []string{"import", "rm", "gc", "prune", "create", "tag", "pull", "repair", "repack", "heal"}

// straceFaults are injected by the kernel's own tracer at the N-th call, for all
// N up to the last one: the same failures as those of TestFaults from another
// hand, and kills between any two calls.
var straceFaults = []struct{ calls, how string }{
	{"fsync,fdatasync", "error=EIO"},
	{"fsync,fdatasync", "signal=KILL"},
	{"renameat,renameat2", "error=ENOSPC"},
	{"renameat,renameat2", "signal=KILL"},
	{"write,pwrite64", "error=ENOSPC"},
	{"write,pwrite64", "signal=KILL"},
	{"unlinkat", "error=EIO"},
	{"unlinkat", "signal=KILL"},
}

// TestStraceFaults sweeps over the calls of the real program. Without
// COCOON_STRACE=1 it tries the first call of each kind only.
func TestStraceFaults(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("no strace here: %v", err)
	}
	if out, err := exec.Command(strace, "-f", "-e", "trace=fsync", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	whole := os.Getenv("COCOON_STRACE") == "1"
	vmm := storeVMM(t)
	var injected, ours, failed, killed atomic.Int64
	t.Run("injected", func(t *testing.T) {
		for _, v := range append(slices.Clone(verbs), tagVerb) {
			if !slices.Contains(straceVerbs, v.name) || (!whole && v.name != "rm") {
				continue
			}
			t.Run(v.name, func(t *testing.T) {
				t.Parallel()
				s := &sweep{pairs: newPairs(t, vmm), strace: strace, verb: v}
				for _, f := range straceFaults {
					for n := 1; s.inject(f.calls, f.how, n) && whole; n++ {
					}
				}
				injected.Add(s.injected)
				ours.Add(s.ours)
				failed.Add(s.failed)
				killed.Add(s.killed)
			})
		}
	})
	t.Logf("%d faults injected, %d of them into calls on the store: %d ended the command with an error, %d killed it",
		injected.Load(), ours.Load(), failed.Load(), killed.Load())
}

// sweep is one verb under strace.
type sweep struct {
	*pairs
	strace string
	verb   verb
	runs   int

	injected, ours, failed, killed int64
}

var injectedLine = regexp.MustCompile(`(?m)^.*\(INJECTED\).*$|^.*killed by SIGKILL.*$`)

// inject lets the n-th call fail; false says that there is no n-th call.
func (s *sweep) inject(calls, how string, n int) bool {
	s.t.Helper()
	s.ready()
	s.runs++
	role := fmt.Sprintf("x%d", s.runs)
	s.prepare(s.verb, role)
	log := filepath.Join(s.t.TempDir(), "log")
	c, _, stderr := s.command(nil)
	args := append([]string{
		"-f", "-qq", "-y", "-o", log, "-e", "trace=" + calls,
		"-e", fmt.Sprintf("inject=%s:%s:when=%d", calls, how, n), "cocoon",
	}, s.argsOf(s.verb, role)...)
	c.Path, c.Args = s.strace, append([]string{s.strace}, args...)
	_ = c.Run() // how it ends is looked at
	b, err := os.ReadFile(log)
	if err != nil {
		s.t.Fatal(err)
	}
	lines := injectedLine.FindAllString(string(b), -1)
	code := c.ProcessState.ExitCode()
	s.ended(s.verb, role, code == 0)
	if len(lines) == 0 {
		if code != 0 {
			s.t.Errorf("%s ends with %d, and nothing was injected: %s", s.verb.name, code, stderr)
		}
		s.settle(nil)
		return false
	}
	what := fmt.Sprintf("%s, call %d of %s with %s (%s)", s.verb.name, n, calls, how, lines[0])
	s.injected++
	kill := strings.HasPrefix(how, "signal")
	// Each thread has an n-th call. A write to a terminal that fails says nothing
	// any more, one to an event descriptor of the runtime ends any program.
	store := !strings.HasPrefix(calls, "write") || !slices.ContainsFunc(lines, func(l string) bool { return !strings.Contains(l, s.root) })
	switch {
	case kill:
		s.killed++
	case !store:
	case code != 0:
		s.failed++
		if !strings.HasPrefix(stderr.String(), "cocoon: ") || strings.Contains(stderr.String(), "goroutine ") {
			s.t.Errorf("%s: it ends with %d: %s", what, code, stderr)
		}
	}
	if store {
		s.ours++
	}
	s.settle(nil)
	if s.t.Failed() {
		s.t.Fatalf("%s: see above", what)
	}
	return true
}

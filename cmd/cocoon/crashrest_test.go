package main

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// The verbs of TestCrash whose ends need more than one command to judge.

// prepareRest makes what they work on and learns their steps. Pairs of clones are
// made of a snapshot of their own: its RAM is in the cache, that of base never is.
func (c *crash) prepareRest() {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	c.t.Cleanup(s.Close)
	c.pulled = strings.TrimPrefix(s.URL, "http://") + "/vm:gone"
	c.must("snapshot", "create", "web0", "gone")
	c.must("snapshot", "push", "gone", c.pulled)
	c.must("snapshot", "rm", "gone")
	c.must("snapshot", "create", "web0", "two", "--protect")
	pair := []string{"vm", "create", "pair", "--from-snapshot", "two", "--count", "2", "--restore-mode", "map"}
	c.must(pair...) // the file in the cache is made once
	c.must("vm", "rm", "-f", "pair-1", "pair-2")
	for _, v := range []struct {
		verb string
		args []string
	}{
		{"pull", []string{"snapshot", "pull", c.pulled, "learn3"}},
		{"rm", []string{"snapshot", "rm", "learn3"}},
		{"pair", pair},
		{"vm restore", []string{"vm", "restore", "pair-1", "base", "--from-other"}},
		{"suspend", []string{"vm", "suspend", "pair-1"}},
		{"wake", []string{"vm", "start", "pair-1"}},
		{"vm rm", []string{"vm", "rm", "-f", "pair-1", "pair-2"}},
		{"tag", []string{"snapshot", "tag", "two", "--add", "by=nobody"}},
	} {
		if steps := c.stepsOf(v.args); c.steps[v.verb] == nil {
			c.steps[v.verb] = steps
		}
	}
}

// stepsOf is learn of a verb that may have no step: then it is killed at random
// moments only.
func (c *crash) stepsOf(args []string) (at []string) {
	c.t.Helper()
	log := filepath.Join(c.t.TempDir(), "steps")
	cmd, _, stderr := c.command(args, durable.StepLog+"="+log)
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("cocoon %v: %v: %s", args, err, stderr)
	}
	b, _ := os.ReadFile(log)
	return visitsOf(string(b))
}

// rest plays one of them.
func (w *crasher) rest() {
	w.next++
	name := fmt.Sprintf("w%d-%d", w.number, w.next)
	mine := w.one(w.vms, stands)
	switch n := w.rnd.IntN(10); {
	case n < 1:
		w.run("pull", "snapshot", "pull", w.pulled, name)
		w.run("rm", "snapshot", "rm", name)
	case n < 2:
		code, _ := w.run("pair", "vm", "create", name, "--from-snapshot", "two", "--count", "2", "--restore-mode", "map")
		if gone := w.alone("vm", "rm", "-f", name+"-1", name+"-2"); code == 0 && gone != 0 {
			w.t.Errorf("%s was acknowledged, the removal of both ends with %d", name, gone)
		}
	case n < 3:
		if of := w.one(w.kept, stands); of != "" {
			if code, _ := w.run("tag", "snapshot", "tag", of, "--add", "by="+name); code == 0 {
				w.there(of, "snapshot", "list", "-q", "--filter", "label=by="+name)
			}
		}
	case mine == "":
		w.make(w.vms, name, "clone", "vm", "create", name, "--from-snapshot", "base")
	case n < 6:
		w.run("vm restore", "vm", "restore", mine, "base", "--from-other")
	default:
		if code, _ := w.run("suspend", "vm", "suspend", mine); code != 0 {
			w.alone("vm", "suspend", mine)
		}
		w.run("wake", "vm", "start", mine)
		if code := w.alone("vm", "start", mine); !slices.Contains([]int{0, 4}, code) { // 4: it runs
			w.t.Errorf("start of %s ends with %d", mine, code)
		}
	}
}

// alone runs a command that is not killed.
func (w *crasher) alone(args ...string) int {
	cmd, _, _ := w.command(args)
	_ = cmd.Run() // the state says it all
	return cmd.ProcessState.ExitCode()
}

// there: what was acknowledged is there; nobody else works on it.
func (w *crasher) there(what string, args ...string) {
	cmd, out, stderr := w.command(args)
	if err := cmd.Run(); err != nil || strings.TrimSpace(out.String()) == "" {
		w.t.Errorf("%s was acknowledged; %v: %v: %s", what, args, err, stderr)
	}
}

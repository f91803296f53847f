package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// heldLock is one that a command may find held by another.
type heldLock struct {
	path  string   // below the root
	wants []string // a command that waits for it
}

var heldLocks = map[string]heldLock{
	"gate":     {"gate.lock", []string{"snapshot", "rm", "first"}},
	"store":    {"store.lock", []string{"snapshot", "rm", "first"}},
	"names":    {"names.lock", []string{"snapshot", "rename", "first", "second"}},
	"VM names": {"vms/names.lock", []string{"vm", "create", "other", "--kernel", "guest.elf", "--memory", "64M"}},
}

// TestAWaitForALockIsToldOfAndEnds: somebody who looks on learns for whom the
// command waits, it goes on when the lock is free, and where the holder hangs it
// is busy and says what can be done.
func TestAWaitForALockIsToldOfAndEnds(t *testing.T) {
	t.Parallel()
	vmm := chsnaptest.Build(t)
	allAtOnce(t, map[string]bool{"freed": true, "held": false}, func(t *testing.T, freed bool) {
		allAtOnce(t, heldLocks, func(t *testing.T, l heldLock) {
			h := newHost(t, vmm)
			h.boot("web")
			h.must("snapshot", "create", "web", "first")
			h.waitsFor(filepath.Join(h.root, l.path), freed, l.wants)
		})
	})
}

// waitsFor holds a lock until a command has said that it waits for it.
func (h *host) waitsFor(path string, freed bool, args []string) {
	h.t.Helper()
	lock, err := filelock.Exclusive(h.t.Context(), path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer lock.Unlock()
	c, _, _ := h.command(args)
	c.Stderr = nil
	stderr, err := c.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	lines.Scan()
	told := lines.Text()
	for _, want := range []string{"cocoon: waiting for the lock " + filepath.Base(path) + ", held by ", fmt.Sprintf("(pid %d, since 20", os.Getpid())} {
		if !strings.Contains(told, want) {
			h.t.Errorf("%s: it says %q, want %q", path, told, want)
		}
	}
	want := 7
	if freed {
		want = 0
		lock.Unlock()
	}
	rest := ""
	for lines.Scan() {
		rest += lines.Text() + "\n"
	}
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != want {
		h.t.Errorf("%s: exit code %d, want %d: %s", path, code, want, rest)
	}
	if hint := fmt.Sprintf("hint: wait for process %d and repeat the command, or end it: kill %[1]d", os.Getpid()); !freed && !strings.Contains(rest, hint) {
		h.t.Errorf("%s: %q, want %q", path, rest, hint)
	}
}

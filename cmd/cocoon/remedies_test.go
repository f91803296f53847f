package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestNoHintOfAStateGivesUpTheRAM: what a verb says of a VM in a state that it does
// not take names what lets the guest go on.
func TestNoHintOfAStateGivesUpTheRAM(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	conflict := func(hint string, args ...string) {
		t.Helper()
		h.refuses(4, hint, args...)
		if said := h.fails(nil, args...); strings.Contains(said, "boots from its disks") || strings.Contains(said, "vm stop") {
			t.Errorf("%v: %s", args, said)
		}
	}
	conflict("nothing is to be done", "vm", "resume", "web")
	h.must("vm", "pause", "web")
	conflict("hint: cocoon vm resume web", "vm", "pause", "web")
	conflict("hint: cocoon vm resume web", "vm", "start", "web")
	h.must("vm", "resume", "web")
	h.counts("web")
	h.must("vm", "suspend", "web")
	for _, verb := range [][]string{{"vm", "pause", "web"}, {"vm", "resume", "web"}, {"vm", "stop", "web"}, {"vm", "suspend", "web"}, {"snapshot", "create", "web"}} {
		conflict("cocoon vm start web", verb...)
	}
	last := h.tick("web")
	h.must("vm", "start", "web")
	h.goesOn("web", last)
}

// TestAnInterruptedStartNamesTheStart first, and says what gives up the RAM.
func TestAnInterruptedStartNamesTheStart(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("vm", "suspend", "web")
	last := h.tick("web")
	c, stderr := h.stopped("wake.memory", "vm", "start", "web", "--restore-mode", "map")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGCONT} {
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != 130 || !strings.Contains(stderr.String(), "hint: it is still suspended: cocoon vm start web resumes it; with --cold") {
		t.Errorf("it ended with %v: %s", err, stderr)
	}
	h.must("vm", "start", "web")
	h.goesOn("web", last)
}

// TestASuspendThatIsInterruptedBeforeItsPauseSaysThatTheGuestGoesOn: it is about to
// ask the binary for its version, and never touched the guest.
func TestASuspendThatIsInterruptedBeforeItsPauseSaysThatTheGuestGoesOn(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	v := h.boot("web")
	asked := filepath.Join(t.TempDir(), "asked")
	slow := filepath.Join(t.TempDir(), "cloud-hypervisor")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\n: >"+asked+"\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, _, stderr := h.command([]string{"vm", "suspend", "web"}, "COCOON_HYPERVISOR="+slow)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.until("it asks for the version", func() bool {
		_, err := os.Stat(asked)
		return err == nil
	})
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	if c.ProcessState.ExitCode() != 130 || !strings.Contains(stderr.String(), "interrupted by SIGINT; VM web goes on as it was") {
		t.Errorf("it ended with %v: %s", err, stderr)
	}
	h.runsWithin(v, 0)
	h.counts("web")
	h.bare()
}

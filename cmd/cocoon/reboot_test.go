package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAGuestThatRebootsBootsOnZeros whatever its RAM was restored from: the VMM
// starts it again in the same process, of the configuration that it was given.
func TestAGuestThatRebootsBootsOnZeros(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	for name, disk := range map[string][]string{"with a disk": {"--disk", "disk.raw"}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm)
			h.must(append([]string{"vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start"}, disk...)...)
			h.counts("web")
			h.must("snapshot", "create", "web", "saved")
			for _, mode := range []string{"map", "stream", "copy"} {
				h.must("vm", "create", mode, "--from-snapshot", "saved", "--restore-mode", mode)
				h.counts(mode)
				h.reboots(mode)
			}
			// What was mapped and has booted is saved like any other, and wakes mapped.
			h.must("vm", "suspend", "map")
			last := h.tick("map")
			h.must("vm", "start", "map", "--restore-mode", "map")
			h.goesOn("map", last)
			h.reboots("map")
			// The file that all clones share has not changed.
			h.must("vm", "create", "next", "--from-snapshot", "saved", "--restore-mode", "map")
			h.counts("next")
			h.clean("saved")
		})
	}
}

// reboots has the VMM boot a guest again and waits until it counts.
func (h *host) reboots(name string) {
	h.t.Helper()
	boots := func() int { return bytes.Count([]byte(h.must("vm", "logs", name)), []byte("BOOT")) }
	h.api(name, "vm.reboot", "")
	for deadline := time.Now().Add(60 * time.Second); boots() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("guest %s did not boot again", name)
		}
	}
	h.counts(name)
}

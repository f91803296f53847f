package main

import (
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestASlowVMMIsWaitedFor: nothing fails that only needed longer. The first answer
// of each kind takes the VMM more than the five seconds that asking was once given,
// as on a host that is far too busy, and less than vmmTimeout.
func TestASlowVMMIsWaitedFor(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("minutes of waiting for a slow VMM")
	}
	sim := chsnaptest.Build(t)
	slow := ""
	for _, call := range []string{"vmm.ping", "vm.info", "vm.pause", "vm.resume", "vm.snapshot", "vm.restore", "vm.send-migration", "migration.State", "migration.Complete"} {
		slow += call + "=slow:6s#1,"
	}
	allAtOnce(t, map[string][][]string{
		"capture live": {{"snapshot", "create", "web", "s", "--capture", "live"}},
		"capture file": {{"snapshot", "create", "web", "s", "--capture", "file"}},
		"suspend":      {{"vm", "suspend", "web"}, {"vm", "start", "web", "--restore-mode", "map"}},
		"exchange":     {{"snapshot", "create", "web", "s"}, {"vm", "restore", "web", "s", "--restore-mode", "copy"}},
		"pause":        {{"vm", "pause", "web"}, {"vm", "resume", "web"}, {"vm", "stop", "web", "--timeout", "1s"}},
	}, func(t *testing.T, verbs [][]string) {
		h := newHost(t, sim, "CHSIM_FAIL="+slow)
		h.must("vm", "create", "web", "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
		for _, args := range verbs {
			h.must(args...)
		}
		h.must("vm", "rm", "--force", "web")
	})
}

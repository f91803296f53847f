package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestNoCloneRunsBeforeAllCan kills the command where the first guest runs, of
// more clones than are worked on at once: every VMM has loaded its guest by then.
// gc leaves nothing of any.
func TestNoCloneRunsBeforeAllCan(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "rm", "-f", "web")
	h.killed("restore.resume", "vm", "create", "c", "--from-snapshot", "base", "--count", "20", "--restore-mode", "map")
	sockets, err := filepath.Glob(filepath.Join(h.run, "*", "api-*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if len(sockets) != 20 {
		t.Errorf("%d VMMs where the first guest runs, want 20", len(sockets))
	}
	for _, s := range sockets {
		info, err := chsnap.NewClient(s, patience.Patience(time.Minute)).Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State != "Paused" && info.State != "Running" {
			t.Errorf("a VMM where the first guest runs is %q", info.State)
		}
	}
	h.must("gc")
	if left := h.must("vm", "list", "-q"); left != "" {
		t.Errorf("left VMs %q", left)
	}
	h.clean("base")
}

package vm

import (
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// bootID names the run of this host's kernel. A record outlives it, pids and
// start times, which count from the boot, do not mean anything afterwards.
func bootID() string { return owner.Boot() }

// alive says whether a process is there: the one that was started, in this run
// of the kernel.
func alive(p *Process) bool {
	if p.BootID != "" && p.BootID != bootID() {
		return false
	}
	t, err := keeper.StartTime(p.PID)
	return err == nil && t == p.StartTime
}

package vm

import (
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// bootID identifies the current boot of the kernel. A record outlives it; pids
// and start times, which count from the boot, mean nothing afterwards.
func bootID() string { return owner.Boot() }

// alive reports whether a process still runs: the very one that was started, in
// this boot.
func alive(p *Process) bool {
	if p.BootID != "" && p.BootID != bootID() {
		return false
	}
	t, err := keeper.StartTime(p.PID)
	return err == nil && t == p.StartTime
}

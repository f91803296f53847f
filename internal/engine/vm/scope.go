package vm

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// Scoping says whether each VMM has its own systemd scope: a cgroup with limits,
// which outlives the unit or session that started the VM. "" is Unscoped.
type Scoping string

// The kinds of Scoping.
const (
	ScopedIfPossible Scoping = "auto"
	Scoped           Scoping = "on"
	Unscoped         Scoping = "off"
)

// Scopes are how they are made.
type Scopes struct {
	Kind Scoping
	// MemoryOverhead is what a VMM may use in addition to the RAM of its guest,
	// bytes; 0 is unlimited.
	MemoryOverhead int64
	CPUWeight      int // 1 to 10000; 0 leaves it as it is
}

// scopeSlice holds the scopes of all VMs.
const scopeSlice = "cocoon.slice"

const scopeCommand = "systemd-run"

// CanScope reports whether systemd runs on this host and can make scopes.
func CanScope() bool {
	_, err := os.Stat("/run/systemd/system")
	if err == nil {
		_, err = exec.LookPath(scopeCommand)
	}
	return err == nil
}

// scope of the VMM of a VM, nil for none.
func (m *Manager) scope(rec *Record) *keeper.Scope {
	s := m.o.Scopes
	if s.Kind != Scoped && (s.Kind != ScopedIfPossible || !CanScope()) {
		return nil
	}
	argv := []string{
		scopeCommand, "--scope", "--quiet", "--collect", "--slice=" + scopeSlice,
		fmt.Sprintf("--unit=cocoon-%s-%s.scope", rec.ID, strconv.FormatInt(time.Now().UnixMilli(), 36)),
		"--description=cocoon VM " + strings.ReplaceAll(rec.Name, "%", "%%"),
	}
	if s.MemoryOverhead > 0 {
		argv = append(argv, "--property=MemoryMax="+strconv.FormatInt(rec.MemoryBytes+rec.HotplugBytes+s.MemoryOverhead, 10))
	}
	if s.CPUWeight > 0 {
		argv = append(argv, "--property=CPUWeight="+strconv.Itoa(s.CPUWeight))
	}
	return &keeper.Scope{Argv: append(argv, "--"), Must: s.Kind == Scoped}
}

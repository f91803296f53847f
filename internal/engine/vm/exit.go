package vm

import (
	"context"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// Ways in which the VMM of a VM can have ended.
const (
	PoweredOff    = "powered off"    // by the guest itself, or its VMM was asked to end
	PowerCut      = "power cut"      // by `vm stop`, after the guest did not power off in time
	Killed        = "killed"         // its VMM, by a signal
	Failed        = "failed"         // its VMM, with an exit code
	HostRestarted = "host restarted" // with all that ran on it
	Unseen        = "unseen"         // not observed: its keeper had died before
)

// Exit is how and when a VM last stopped running.
type Exit struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at,omitzero"` // zero if not observed
	// Detail says more in words; it may be empty.
	Detail  string `json:"detail,omitempty"`
	Code    *int   `json:"code,omitempty"`    // of the VMM
	Signal  string `json:"signal,omitempty"`  // that killed it: SIGKILL
	LastLog string `json:"lastLog,omitempty"` // last line that the VMM printed
}

// String is for display: "powered off: by itself after 3.2s".
func (e *Exit) String() string {
	if e.Detail == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Detail
}

// Bad reports whether the VM ended abnormally.
func (e *Exit) Bad() bool { return e.Reason == Killed || e.Reason == Failed }

func newExit(reason, format string, args ...any) *Exit {
	return &Exit{Reason: reason, At: time.Now().UTC(), Detail: fmt.Sprintf(format, args...)}
}

// seen adds what its keeper saw of the VMM's end.
func (e *Exit) seen(end *keeper.End) {
	if end != nil {
		e.At, e.Code, e.Signal, e.LastLog = end.At, end.Code, end.Signal, end.LastLog
	}
}

// Short is for lists.
func (e *Exit) Short() string {
	switch {
	case e.Reason == Killed:
		return e.Signal
	case e.Reason == Failed:
		return fmt.Sprintf("exit code %d", *e.Code)
	}
	return e.Reason
}

// exitOf says how a VMM ended that no command has ended.
func (m *Manager) exitOf(id string, p *Process) *Exit {
	if p.BootID != "" && p.BootID != bootID() {
		return &Exit{Reason: HostRestarted}
	}
	return exitAs(m.endOf(id, p))
}

// exitAs says how a VMM ended, from what its keeper saw; nil if nothing.
func exitAs(end *keeper.End) *Exit {
	e := &Exit{Reason: Unseen}
	e.seen(end)
	switch {
	case end == nil:
	case end.Orderly, end.Code != nil && *end.Code == 0:
		e.Reason = PoweredOff // an orderly end may still crash during cleanup
	case end.Signal != "":
		e.Reason, e.Detail = Killed, "its VMM, by "+end.Signal
	case end.Code != nil:
		e.Reason, e.Detail = Failed, fmt.Sprintf("its VMM, with exit code %d", *end.Code)
	}
	return e
}

func target(p *Process) keeper.Target { return keeper.Target{PID: p.PID, StartTime: p.StartTime} }

// endOf returns what the keeper of an ended VMM saw, nil if nothing. The keeper
// may be just about to write it.
func (m *Manager) endOf(id string, p *Process) *keeper.End {
	dir := m.RunDir(id)
	if end := keeper.ReadEnd(dir, target(p)); end != nil {
		return end
	}
	// It may be about to write it down.
	if kept, err := keeper.Kept(dir); err != nil || !kept {
		return nil
	}
	if err := keeper.AwaitEnd(context.Background(), dir, m.o.Patience.Glance()); err != nil {
		return nil
	}
	return keeper.ReadEnd(dir, target(p))
}

// Panic returns the kernel panic of a running VM's guest, nil if there was none.
func (m *Manager) Panic(rec *Record) *keeper.Panic {
	if rec.Process == nil {
		return nil
	}
	return keeper.ReadPanic(m.RunDir(rec.ID), target(rec.Process))
}

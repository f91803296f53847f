package vm

import (
	"context"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// Ways in which the VMM of a VM can have come to its end.
const (
	PoweredOff    = "powered off"    // by the guest itself, or its VMM was asked to end
	PowerCut      = "power cut"      // by `vm stop`, which the guest did not follow in time
	Killed        = "killed"         // its VMM, by a signal
	Failed        = "failed"         // its VMM, with an exit code
	HostRestarted = "host restarted" // with all that ran on it
	Unseen        = "unseen"         // nobody was there: its keeper had died before
)

// Exit is how and when a VM last ceased to run.
type Exit struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at,omitzero"` // zero when nobody was there
	// Detail says more in words, for people; it may be empty.
	Detail  string `json:"detail,omitempty"`
	Code    *int   `json:"code,omitempty"`    // of the VMM
	Signal  string `json:"signal,omitempty"`  // that killed it: SIGKILL
	LastLog string `json:"lastLog,omitempty"` // last line that the VMM printed
}

// String is for people: "powered off: by itself after 3.2s".
func (e *Exit) String() string {
	if e.Detail == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Detail
}

// Bad tells whether the VM did not end as VMs do.
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

// exitOf says how the VMM of a VM ended that no verb has ended.
func (m *Manager) exitOf(id string, p *Process) *Exit {
	if p.BootID != "" && p.BootID != bootID() {
		return &Exit{Reason: HostRestarted}
	}
	return exitAs(m.endOf(id, p))
}

// exitAs is how a VMM ended of which its keeper saw this; nil is nothing.
func exitAs(end *keeper.End) *Exit {
	e := &Exit{Reason: Unseen}
	e.seen(end)
	switch {
	case end == nil:
	case end.Orderly, end.Code != nil && *end.Code == 0:
		e.Reason = PoweredOff // one that ended in order may crash while it cleans up
	case end.Signal != "":
		e.Reason, e.Detail = Killed, "its VMM, by "+end.Signal
	case end.Code != nil:
		e.Reason, e.Detail = Failed, fmt.Sprintf("its VMM, with exit code %d", *end.Code)
	}
	return e
}

func target(p *Process) keeper.Target { return keeper.Target{PID: p.PID, StartTime: p.StartTime} }

// endOf is what the keeper of a VMM that has ended saw of it, nil when nothing.
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

// Panic says whether the guest of a VM that runs has died, nil when not.
func (m *Manager) Panic(rec *Record) *keeper.Panic {
	if rec.Process == nil {
		return nil
	}
	return keeper.ReadPanic(m.RunDir(rec.ID), target(rec.Process))
}

package vm

import (
	"context"
	"errors"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// StateOf translates a VMM's state from vm.info.
func StateOf(info *chsnap.Info) State {
	switch info.State {
	case "Running":
		return Running
	case "Paused", "BreakPoint":
		return Paused
	}
	return Shutdown // Created, Shutdown
}

// NotRunning refuses what needs a running guest; state is that of StateOf.
func NotRunning(rec *Record, state State) error {
	err := failure.New(failure.Conflict, "the guest of VM %s is shut down, its VMM still runs", rec.Name)
	if state != Shutdown {
		err = failure.New(failure.Conflict, "VM %s is %s", rec.Name, state)
	}
	return failure.Hint(err, remedy(rec, state))
}

// remedy names what makes the guest of a VM in a state run. Only one that is off
// loses nothing by a boot.
func remedy(rec *Record, state State) string {
	switch state {
	case Shutdown:
		return bootAnew(rec)
	case Running:
		return "its guest runs: nothing is to be done"
	case Paused:
		return hint.Resume.Of(rec.Name) + " resumes it"
	case Suspended:
		return hint.Wake.Of(rec.Name) + " resumes it"
	case Elsewhere:
		return ""
	}
	return hint.Wake.Of(rec.Name)
}

// Look asks the VMMs for the states of their guests, for display: all in
// parallel, and only briefly. A VMM that is busy with a command is not in trouble
// because it does not answer.
func (m *Manager) Look(ctx context.Context, recs ...*Record) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, rec := range recs {
		if rec.Sleep != nil {
			continue
		}
		if rec.Process == nil {
			if m.unwritten(ctx, rec) {
				rec.Trouble = Unwritten
			}
			continue
		}
		g.Go(func() error {
			m.look(ctx, rec)
			return nil
		})
	}
	_ = g.Wait()
}

func (m *Manager) look(ctx context.Context, rec *Record) {
	err := m.glance(ctx, rec)
	if held, lerr := filelock.Held(filepath.Join(m.Dir(rec.ID), lockFile)); lerr == nil && !held {
		m.trouble(ctx, rec, err)
	}
}

// lookLocked is Look for a verb that holds the VM's lock.
func (m *Manager) lookLocked(ctx context.Context, rec *Record) {
	if rec.Process != nil && rec.Sleep == nil {
		m.trouble(ctx, rec, m.glance(ctx, rec))
	}
}

// glance is the state that a VMM reports at once.
func (m *Manager) glance(ctx context.Context, rec *Record) error {
	ctx, cancel := patience.Bound(ctx, m.o.Patience.Glance())
	defer cancel()
	info, err := m.Client(rec).Info(ctx)
	if err == nil {
		rec.State = StateOf(info)
	}
	return err
}

// trouble is that of a VMM no command is working with; err is the result of a
// glance.
func (m *Manager) trouble(ctx context.Context, rec *Record, err error) {
	if d := m.readDebt(ctx, rec.ID); d != nil {
		rec.Trouble = d.Trouble // even if it says Running, see chsnap: during a migration that may be wrong
	}
	switch {
	case errors.Is(err, chsnap.ErrUnreachable):
		rec.Trouble = NotAnswering
	case rec.Trouble == NotAnswering && rec.State == Running:
		rec.Trouble = "" // it has recovered
	}
}

package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Files in the entry of a VM, see package runfolder.
const (
	identityFile = "vmm.json"
	apiPrefix    = "api-" // of API sockets: one path a process

	hostSockets = vsockFile + "_" // on which programs of the host listen for the guest
)

// CheckRunFolder refuses a run folder that is not ours alone, or that is a folder
// of a store: each would take the other's files for its own.
func (m *Manager) CheckRunFolder() error {
	if root := layout.Around(m.run.Path()); root != "" {
		return failure.Hint(failure.New(failure.Usage, "run folder: %s is of the store in %s", m.run.Path(), root), "choose a folder outside of it with "+hint.RunDir.Of())
	}
	return m.run.Check()
}

// mayTake lets this store take over an entry for one of its VMs: one without a
// mark, or of a store that is no longer where it was, such as this one before it
// was moved to a larger disk. Nothing of other stores may live in it.
func (m *Manager) mayTake(ctx context.Context) func(*runfolder.Entry) error {
	return func(e *runfolder.Entry) error {
		if e.Mark.Store != "" && !e.Mark.Gone() {
			return e.Another()
		}
		all, err := vmms()
		if err != nil {
			return err
		}
		ours, others := m.sorted(ctx, e.ID, e, in(e, all[e.ID]))
		if len(others) > 0 {
			return failure.Hint(fmt.Errorf("process %d: %w", others[0].pid, e.Another()), "choose another folder with "+hint.RunDir.Of()+" for this store")
		}
		lives, err := e.Lives()
		if who, werr := readIdentity(e); werr == nil && who.PIDNamespace != 0 && who.PIDNamespace != pidNamespace() && e.Mark.Boot == owner.Boot() {
			lives = true // as far as can be seen from here
		}
		if err == nil && lives && len(ours) == 0 {
			err = e.Another()
		}
		return err
	}
}

// in are those whose sockets lie in this very entry.
func in(e *runfolder.Entry, all []vmm) (here []vmm) {
	for _, v := range all {
		if e.IsDir(filepath.Dir(v.socket)) {
			here = append(here, v)
		}
	}
	return here
}

// enter prepares the entry of a VM that is about to be launched: it belongs to
// this store, and nothing lives in it. If it has a log, a VMM was started before,
// and a start that was killed before recording its VMM may have left one.
func (m *Manager) enter(ctx context.Context, id string) (*runfolder.Entry, error) {
	e, err := m.run.Make(ctx, id, m.mayTake(ctx))
	if err != nil {
		return nil, err
	}
	if e.Has(runfolder.LogFile) {
		if err := m.Kill(ctx, id); err != nil && !errors.Is(err, failure.Damaged) {
			e.Close()
			return nil, fmt.Errorf("end the VMM of an earlier start: %w", err)
		}
	}
	if err := e.RemoveSockets(hostSockets); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// MayRun refuses, before anything changes, to run a VM whose outside resources
// belong to another store, of which this one is a copy: failure.Conflict. The
// VM's lock is held.
func (m *Manager) MayRun(ctx context.Context, id string) error {
	e, err := m.enter(ctx, id)
	if err != nil {
		return err
	}
	return errors.Join(e.Close(), m.o.Network.CheckOwner(id))
}

// newLogs makes the logs of a VMM and its guest, and returns the first, locked:
// the VMM holds the lock as long as it lives. The VMM opens the other by its
// path. Its keeper writes to the first too, so both append.
func newLogs(e *runfolder.Entry) (*os.File, error) {
	serial, err := e.Create(keeper.SerialLog)
	if err == nil {
		err = serial.Close()
	}
	if err != nil {
		return nil, err
	}
	log, err := e.Create(runfolder.LogFile)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(log.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		log.Close()
		return nil, fmt.Errorf("lock %s: %w", e.Path(runfolder.LogFile), err)
	}
	if _, err := unix.FcntlInt(log.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		log.Close()
		return nil, fmt.Errorf("append to %s: %w", e.Path(runfolder.LogFile), err)
	}
	return log, nil
}

// OpenSerial opens the serial log of a VM. fs.ErrNotExist if the guest has
// printed nothing, or the entry belongs to another store.
func (m *Manager) OpenSerial(ctx context.Context, id string) (*keeper.Log, error) {
	e, err := m.ownEntry(ctx, id)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return keeper.OpenLog(e.Path(keeper.SerialLog))
}

// ownEntry opens the entry of a VM of this store for reading. An entry of another
// store counts as missing.
func (m *Manager) ownEntry(ctx context.Context, id string) (*runfolder.Entry, error) {
	e, err := m.run.Look(ctx, id)
	if err != nil {
		return nil, err
	}
	if !e.Mine && e.Mark.Store != "" {
		e.Close()
		return nil, fs.ErrNotExist
	}
	return e, nil
}

// removeSockets of a VM whose VMM has ended.
func (m *Manager) removeSockets(ctx context.Context, id string) error {
	e, err := m.ownEntry(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(e.RemoveSockets(hostSockets), e.Close())
}

// LastLog is the last line that a VM's VMM printed: the cause of a failure that
// it does not answer in full.
func (m *Manager) LastLog(id string) string {
	e, err := m.ownEntry(context.Background(), id)
	if err != nil {
		return ""
	}
	defer e.Close()
	return keeper.LastLine(e.Path(runfolder.LogFile))
}

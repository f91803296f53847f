package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
)

// owedFile in a VM's run folder says that the holder of the VM's lock paused
// the guest and owes it a resume. It is empty until somebody tried to pay in
// vain, then it holds a debt.
const owedFile = "resume-owed"

// debt is what is known of a guest that could not be let go on.
type debt struct {
	Tried   time.Time `json:"tried"` // last
	Trouble string    `json:"trouble"`
}

// Trouble with a VMM that lives.
const (
	NotAnswering = "not answering"                         // it says nothing
	Frozen       = "frozen"                                // it answers, but its guest stands still and it does not let it go on
	Unwritten    = "has a VMM that was never written down" // the next verb that changes the VM ends it
)

// OweResume notes, before a guest is paused or loaded, that it must run. settle,
// given what came of it, takes the note back if the guest runs or its VMM is
// gone, else it leaves the debt to the next command. That of a VM that is put
// aside stays.
func (m *Manager) OweResume(ctx context.Context, rec *Record) (settle func(context.Context, error) error, err error) {
	entry, err := m.run.Make(ctx, rec.ID, m.mayTake(ctx))
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	note, err := entry.Create(owedFile)
	if err == nil {
		err = note.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("note the pause of VM %s: %w", rec.Name, err)
	}
	return func(ctx context.Context, err error) error {
		var stuck *chsnap.StuckError
		if errors.As(err, &stuck) {
			return m.stuck(ctx, rec, stuck, err)
		}
		return errors.Join(err, m.paid(ctx, rec))
	}, nil
}

// paid takes the note of a VM back if its guest runs, or its VMM is gone.
func (m *Manager) paid(ctx context.Context, rec *Record) error {
	if sleep, err := m.readSleep(rec.ID); err != nil || sleep != nil && sleep.Aside {
		return err
	}
	info, err := m.Client(rec).Info(context.WithoutCancel(ctx))
	if rec.Process != nil && alive(rec.Process) && (err != nil || info.State != "Running") {
		return nil
	}
	return os.Remove(m.OwedPath(rec.ID))
}

// OwedPath is where the note of OweResume lies.
func (m *Manager) OwedPath(id string) string { return filepath.Join(m.RunDir(id), owedFile) }

// owedNote is the file in which a debt is written down.
var owedNote = durable.Document{Name: "the note of a resume that is owed", Limit: 4 << 10}

// readDebt is nil where nobody has tried in vain.
func (m *Manager) readDebt(ctx context.Context, id string) *debt {
	e, err := m.ownEntry(ctx, id)
	if err != nil {
		return nil
	}
	defer e.Close()
	return debtIn(e)
}

// debtIn is the same of an open entry. A note that cannot be read is one on which
// nothing was tried.
func debtIn(e *runfolder.Entry) *debt {
	b, err := e.Read(owedNote, owedFile)
	var d debt
	if err != nil || json.Unmarshal(b, &d) != nil {
		return nil
	}
	return &d
}

// inVain notes that a guest could not be let go on, so that the next commands do
// not wait for it as well.
func (m *Manager) inVain(ctx context.Context, id, trouble string) error {
	b, err := json.Marshal(debt{time.Now().UTC(), trouble})
	if err != nil {
		return err
	}
	e, err := m.ownEntry(ctx, id)
	if err != nil {
		return err
	}
	return errors.Join(e.Write(owedNote, owedFile, b), e.Close())
}

// stuck notes that a VMM could not be brought to let its guest go on, and says
// what helps.
func (m *Manager) stuck(ctx context.Context, rec *Record, stuck *chsnap.StuckError, err error) error {
	trouble := NotAnswering
	if stuck.Answers {
		trouble = Frozen
	}
	err = errors.Join(err, m.inVain(context.WithoutCancel(ctx), rec.ID, trouble))
	return failure.Hint(fmt.Errorf("the guest of VM %s stands still and its VMM is %s: %w", rec.Name, trouble, err), giveUp(rec))
}

// giveUp is what helps where the VMM does not, and what that costs.
func giveUp(rec *Record) string {
	return bootAnew(rec) + ", and what is only in its RAM is lost"
}

// bootAnew is what helps where the guest is off.
func bootAnew(rec *Record) string {
	return fmt.Sprintf("cocoon vm stop %s, then cocoon vm start %[1]s: it boots from its disks", rec.Name)
}

// Waker lets a VM go on that was put aside; its lock is held.
type Waker func(ctx context.Context, rec *Record) error

// atOnce bounds how many VMMs are talked to at the same time.
const atOnce = 64

// Rescue lets each guest go on whose pauser died, and its guard with it, before
// it could: its note is there and nobody holds its lock. It answers the names.
// The command at hand is about something else: each VMM gets a glance, all at the
// same time, and one that was tried in vain a moment ago gets none.
func (m *Manager) Rescue(ctx context.Context, wake Waker) ([]string, error) {
	owed, err := m.run.Having(owedFile)
	if err != nil {
		return nil, err
	}
	found, errs := make([]string, len(owed)), make([]error, len(owed))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, id := range owed {
		g.Go(func() error {
			found[i], errs[i] = m.rescueIdle(ctx, id, wake)
			return nil
		})
	}
	_ = g.Wait() // errs has them
	var names []string
	for i, name := range found {
		if name != "" {
			names = append(names, name)
			m.rescued[owed[i]] = true
		}
	}
	return names, errors.Join(errs...)
}

// rescueIdle is rescue of a VM that nobody works on.
func (m *Manager) rescueIdle(ctx context.Context, id string, wake Waker) (string, error) {
	e, err := m.ownEntry(ctx, id)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer e.Close()
	if d := debtIn(e); d != nil && time.Since(d.Tried) < m.o.Patience.Call() {
		return "", nil
	}
	if _, err := os.Lstat(m.Dir(id)); err != nil {
		return "", nil // the VM is gone, and gc takes the entry
	}
	lock, err := filelock.TryExclusive(filepath.Join(m.Dir(id), lockFile))
	if errors.Is(err, filelock.ErrLocked) || errors.Is(err, os.ErrNotExist) {
		return "", nil // its pauser lives
	}
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	return m.rescue(ctx, id, wake, m.o.Patience.Glance())
}

// RescueAfter is Rescue for one VM whose pauser is dying: it waits for the end
// of its lock, and as long as it takes for its VMM.
func (m *Manager) RescueAfter(ctx context.Context, id string, wake Waker) error {
	lock, err := filelock.ExclusiveExisting(ctx, filepath.Join(m.Dir(id), lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	_, err = m.rescue(ctx, id, wake, 0)
	return err
}

// owes tells whether the note is there, and marked as this store's. That of another
// store is not there.
func (m *Manager) owes(ctx context.Context, id string) (owed, mine bool, err error) {
	e, err := m.ownEntry(ctx, id)
	if errors.Is(err, os.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer e.Close()
	return e.Has(owedFile), e.Mine, nil
}

// rescue pays the debt of a VM whose lock is held, if the note is this store's: in
// a copy of the store the guest is not its pauser's. within bounds what the VMM may
// take to let the guest go on; 0 is as long as its RAM may keep it.
func (m *Manager) rescue(ctx context.Context, id string, wake Waker, within time.Duration) (string, error) {
	note := m.OwedPath(id)
	owed, mine, err := m.owes(ctx, id)
	if err != nil || !owed {
		return "", err
	}
	rec, err := m.read(id)
	if err != nil {
		return "", err
	}
	if m.live(ctx, rec); rec.State == Elsewhere || !mine && rec.Process == nil {
		return "", nil // of an older program's note only the process can tell whose it is
	}
	if err := m.settle(ctx, rec); err != nil {
		return "", err
	}
	if rec.Sleep != nil && rec.Sleep.Aside {
		if err := wake(ctx, rec); err != nil {
			return "", errors.Join(err, m.inVain(ctx, id, ""))
		}
		return rec.Name, ignoreMissing(os.Remove(note))
	}
	if rec.Process == nil {
		return "", os.Remove(note)
	}
	if within == 0 {
		within = m.o.Patience.Moving(uint64(rec.MemoryBytes))
	}
	was, err := m.Client(rec).LetGo(ctx, within)
	var stuck *chsnap.StuckError
	switch {
	case errors.As(err, &stuck):
		return "", m.stuck(ctx, rec, stuck, err)
	case err != nil:
		return "", fmt.Errorf("resume VM %s, whose capture died: %w", rec.Name, err)
	case was == "Running": // its guard, or the VMM by itself, was first
		return "", os.Remove(note)
	}
	return rec.Name, os.Remove(note)
}

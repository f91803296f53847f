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
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
)

// owedFile in a VM's run folder says that the holder of the VM's lock paused the
// guest and must resume it. It is empty until a resume failed, then it holds a
// debt.
const owedFile = "resume-owed"

// debt is what is known about a guest that could not be resumed.
type debt struct {
	Tried   time.Time `json:"tried"` // last
	Trouble string    `json:"trouble"`
}

// Trouble with a VMM that lives.
const (
	NotAnswering = "not answering"                         // it does not respond
	Frozen       = "frozen"                                // it responds, but keeps its guest paused
	Unwritten    = "has a VMM that was never written down" // the next verb that changes the VM ends it
)

// OweResume notes, before a guest is paused or loaded, that it must be resumed.
// settle, called with the outcome, removes the note if the guest runs or its VMM
// is gone, else it leaves the resume to the next command. The note of a VM that
// is put aside stays.
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

// paid removes the note of a VM if its guest runs, or its VMM is gone.
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

// OwedPath is the path of OweResume's note.
func (m *Manager) OwedPath(id string) string { return filepath.Join(m.RunDir(id), owedFile) }

// owedNote is the file of a debt.
var owedNote = durable.Document{Name: "the note of a resume that is owed", Limit: 4 << 10}

// readDebt is nil if no resume has failed.
func (m *Manager) readDebt(ctx context.Context, id string) *debt {
	e, err := m.ownEntry(ctx, id)
	if err != nil {
		return nil
	}
	defer e.Close()
	return debtIn(e)
}

// debtIn is the same for an open entry. An unreadable note counts as one without
// a failed attempt.
func debtIn(e *runfolder.Entry) *debt {
	b, err := e.Read(owedNote, owedFile)
	var d debt
	if err != nil || json.Unmarshal(b, &d) != nil {
		return nil
	}
	return &d
}

// inVain notes that a guest could not be resumed, so that the next commands do
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

// stuck notes that a VMM could not be made to resume its guest, and names the
// remedy.
func (m *Manager) stuck(ctx context.Context, rec *Record, stuck *chsnap.StuckError, err error) error {
	trouble := NotAnswering
	if stuck.Answers {
		trouble = Frozen
	}
	err = errors.Join(err, m.inVain(context.WithoutCancel(ctx), rec.ID, trouble))
	return failure.Hint(fmt.Errorf("the guest of VM %s is paused and its VMM is %s: %w", rec.Name, trouble, err), giveUp(rec))
}

// giveUp is the remedy if the VMM does not respond, and its cost.
func giveUp(rec *Record) string {
	return bootAnew(rec) + "; what is only in its RAM is lost"
}

// bootAnew is the remedy if the guest is off.
func bootAnew(rec *Record) string {
	return hint.Stop.Of(rec.Name) + ", then " + hint.Wake.Of(rec.Name) + ": it boots from its disks"
}

// Waker resumes a VM that was put aside; its lock is held.
type Waker func(ctx context.Context, rec *Record) error

// atOnce limits how many VMMs are contacted at the same time.
const atOnce = 64

// Rescue resumes each guest whose pausing process died, together with its guard,
// before it could: its note exists and nobody holds its lock. It returns the
// names. The current command is about something else: each VMM gets little time,
// all in parallel, and one that was just tried in vain gets none.
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

// rescueIdle is rescue for a VM that no command works on.
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
		return "", nil // the VM is gone, and gc removes the entry
	}
	lock, err := filelock.TryExclusive(filepath.Join(m.Dir(id), lockFile))
	if errors.Is(err, filelock.ErrLocked) || errors.Is(err, os.ErrNotExist) {
		return "", nil // the process that paused it lives
	}
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	return m.rescue(ctx, id, wake, m.o.Patience.Glance())
}

// RescueAfter is Rescue for one VM whose pausing process is dying: it waits until
// the lock is released, and as long as the VMM takes.
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

// owes reports whether the note exists and belongs to this store. That of another
// store does not count.
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

// rescue resumes the guest of a VM whose lock is held, if the note belongs to
// this store: in a copy of the store the guest is not ours. within limits how
// long the VMM may take to resume the guest; 0 is as long as its RAM may require.
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
		return "", nil // for an older program's note only the process shows the owner
	}
	if err := m.settle(ctx, rec); err != nil {
		return "", err
	}
	if rec.Sleep != nil && rec.Sleep.Aside {
		if err := wake(ctx, rec); err != nil {
			return "", errors.Join(err, m.inVain(ctx, id, ""))
		}
		return rec.Name, durable.IgnoreMissing(os.Remove(note))
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

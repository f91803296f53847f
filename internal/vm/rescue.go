package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/filelock"
)

// owedFile in a VM's run folder says that the holder of the VM's lock paused
// the guest and owes it a resume.
const owedFile = "resume-owed"

// OweResume notes, before a guest is paused or loaded, that it must run. The
// answer takes the note back if the guest runs or its VMM is gone, else it
// leaves the debt to the next command. That of a VM that is put aside stays.
func (m *Manager) OweResume(ctx context.Context, rec *Record) (func(context.Context) error, error) {
	path := m.OwedPath(rec.ID)
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
	settle := func(ctx context.Context) error {
		if sleep, err := m.readSleep(rec.ID); err != nil || sleep != nil && sleep.Aside {
			return err
		}
		info, err := m.Client(rec).Info(context.WithoutCancel(ctx))
		if rec.Process != nil && alive(rec.Process) && (err != nil || info.State != "Running") {
			return nil
		}
		return os.Remove(path)
	}
	return settle, nil
}

// OwedPath is where the note of OweResume lies.
func (m *Manager) OwedPath(id string) string { return filepath.Join(m.RunDir(id), owedFile) }

// Waker lets a VM go on that was put aside; its lock is held.
type Waker func(ctx context.Context, rec *Record) error

// Rescue lets each guest go on whose pauser died, and its guard with it, before
// it could: its note is there and nobody holds its lock. It answers the names.
func (m *Manager) Rescue(ctx context.Context, wake Waker) ([]string, error) {
	owed, err := m.run.Having(owedFile)
	if err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, id := range owed {
		name, err := m.rescueIdle(ctx, id, wake)
		if name != "" {
			names = append(names, name)
		}
		errs = append(errs, err)
	}
	return names, errors.Join(errs...)
}

// rescueIdle is rescue of a VM that nobody works on, if the note is this store's:
// in a copy of the store the guest is not its pauser's.
func (m *Manager) rescueIdle(ctx context.Context, id string, wake Waker) (string, error) {
	e, err := m.ownEntry(ctx, id)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer e.Close()
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
	if !e.Mine { // an older program's: only the process can tell
		rec, err := m.read(id)
		if err != nil {
			return "", err
		}
		if m.live(ctx, rec); rec.Process == nil {
			return "", nil
		}
	}
	return m.rescue(ctx, id, wake)
}

// RescueAfter is Rescue for one VM whose pauser is dying: it waits for the end
// of its lock.
func (m *Manager) RescueAfter(ctx context.Context, id string, wake Waker) error {
	lock, err := filelock.ExclusiveExisting(ctx, filepath.Join(m.Dir(id), lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	_, err = m.rescue(ctx, id, wake)
	return err
}

func (m *Manager) rescue(ctx context.Context, id string, wake Waker) (string, error) {
	note := m.OwedPath(id)
	if _, err := os.Stat(note); err != nil {
		return "", nil // settled while we came
	}
	rec, err := m.read(id)
	if err != nil {
		return "", err
	}
	if m.live(ctx, rec); rec.State == Elsewhere {
		return "", nil
	}
	if err := m.settle(ctx, rec); err != nil {
		return "", err
	}
	if rec.Sleep != nil && rec.Sleep.Aside {
		if err := wake(ctx, rec); err != nil {
			return "", err
		}
		return rec.Name, ignoreMissing(os.Remove(note))
	}
	if rec.Process == nil {
		return "", os.Remove(note)
	}
	client := m.Client(rec)
	if info, err := client.Info(ctx); err == nil && info.State == "Running" {
		return "", os.Remove(note) // its guard, or the VMM by itself, was first
	}
	if err := client.EnsureRunning(ctx, m.o.Patience.Call()); err != nil {
		return "", fmt.Errorf("resume VM %s, whose capture died: %w", rec.Name, err)
	}
	return rec.Name, os.Remove(note)
}

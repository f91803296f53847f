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
func (m *Manager) OweResume(rec *Record) (func(context.Context) error, error) {
	path := m.OwedPath(rec.ID)
	if err := os.MkdirAll(m.RunDir(rec.ID), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
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
	owed, err := filepath.Glob(m.OwedPath("*"))
	if err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, path := range owed {
		id := filepath.Base(filepath.Dir(path))
		lock, err := filelock.TryExclusive(filepath.Join(m.Dir(id), "lock"))
		if errors.Is(err, filelock.ErrLocked) || errors.Is(err, os.ErrNotExist) {
			continue // its pauser lives, or the VM is gone and gc takes the folder
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		name, err := m.rescue(ctx, id, wake)
		lock.Unlock()
		if name != "" {
			names = append(names, name)
		}
		errs = append(errs, err)
	}
	return names, errors.Join(errs...)
}

// RescueAfter is Rescue for one VM whose pauser is dying: it waits for the end
// of its lock.
func (m *Manager) RescueAfter(ctx context.Context, id string, wake Waker) error {
	lock, err := filelock.ExclusiveExisting(ctx, filepath.Join(m.Dir(id), "lock"))
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
	m.live(rec)
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

package vm

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
)

// Standing is an entry of the run folder as seen by a collector, which does not
// know yet whether the VM exists.
type Standing struct {
	ID    string
	Path  string
	Owner owner.Mark // the zero value: unknown
	// Mine: it may be removed if no VM of this store has the id.
	Mine bool
	// Empty: it contains nothing, not even a mark.
	Empty bool
	PIDs  []int // of the visible VMMs in it
	// Hidden: a VMM lives in it that is not visible.
	Hidden bool
	// Unwritten: its VM exists, but its record does not know the VMMs in it.
	Unwritten bool
	Wrong     error // why it was not examined
}

// Standing lists the entries of the run folder, of all stores.
func (m *Manager) Standing(ctx context.Context) ([]Standing, error) {
	ids, err := m.run.IDs()
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	all, err := vmms()
	if err != nil {
		return nil, err
	}
	var out []Standing
	for _, id := range ids {
		e, err := m.run.Look(ctx, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			out = append(out, Standing{ID: id, Path: m.RunDir(id), Wrong: err})
			continue
		}
		s, err := m.standing(ctx, e, in(e, all[id]))
		e.Close()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (m *Manager) standing(ctx context.Context, e *runfolder.Entry, here []vmm) (Standing, error) {
	s := Standing{ID: e.ID, Path: e.Path(""), Owner: e.Mark, Mine: e.Mine, PIDs: pids(here)}
	names, err := e.Names()
	if err != nil {
		return s, err
	}
	s.Empty = len(names) == 0
	lives, err := e.Lives()
	if err != nil {
		return s, err
	}
	s.Hidden = lives && len(here) == 0
	if e.Mine && len(here) > 0 {
		if rec, err := m.read(e.ID); err == nil {
			m.live(ctx, rec)
			s.Unwritten = m.unwritten(ctx, rec)
		}
	}
	if ours, _ := m.sorted(ctx, e.ID, e, here); !e.Mine && e.Mark.Store == "" {
		s.Mine = len(here) > 0 && len(ours) == len(here) // an older program's, of this store
	}
	return s, nil
}

// EndUnwritten ends the VMMs in an entry that its VM's record does not know,
// unless a verb works on the VM.
func (m *Manager) EndUnwritten(ctx context.Context, s Standing) error {
	lock, err := filelock.TryExclusive(filepath.Join(m.Dir(s.ID), lockFile))
	if errors.Is(err, filelock.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	rec, err := m.read(s.ID)
	if err != nil {
		return err
	}
	if m.live(ctx, rec); rec.State == Elsewhere || rec.Process != nil {
		return nil
	}
	_, err = m.unseat(ctx, rec.ID, rec.Name)
	return err
}

// EndStanding ends the VMMs in an entry of this store whose VM does not exist,
// and removes the entry. failure.Conflict if one lives and cannot be ended.
func (m *Manager) EndStanding(ctx context.Context, s Standing) error {
	if s.Empty {
		return durable.IgnoreMissing(m.run.RemoveEmpty(s.ID))
	}
	if !s.Mine {
		return failure.New(failure.Conflict, "%s does not belong to this store", s.Path)
	}
	// A torn vmm.json was left by a writer that died: it names no process.
	ended, err := m.endVMMs(ctx, s.ID)
	if err != nil && !errors.Is(err, failure.Damaged) {
		return err
	}
	e, err := m.run.Look(ctx, s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer e.Close()
	err = m.settled(ctx, ended, func() (bool, error) {
		lives, err := e.Lives()
		return !lives, err
	}, func() error {
		return failure.New(failure.Conflict, "a VMM that is not visible from here lives in %s", s.Path)
	})
	if err != nil {
		return err
	}
	_, err = m.run.Remove(ctx, s.ID, m.mayTake(ctx))
	return err
}

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Sleep is vms/<id>/suspend.json. A VM is suspended exactly while this file
// exists: it has no process, its RAM is in the snapshot, and its disks match that
// RAM. Writing the file suspends the VM, removing it wakes the VM; each is one
// rename or unlink, so after a crash the VM is in one state or the other.
type Sleep struct {
	Version  int       `json:"version"`
	Snapshot store.ID  `json:"snapshot"`
	Since    time.Time `json:"since"`
	// Aside says that the VM was only put aside while another state was to
	// replace it: if that work is abandoned, the VM is to run again.
	Aside bool `json:"aside,omitempty"`
	// Record is the VM as it was suspended. While it is suspended this one
	// counts, not record.json: the disks it names match the RAM.
	Record *Record `json:"record"`
}

// SleepPath is the path of a VM's suspend.json.
func (m *Manager) SleepPath(id string) string { return filepath.Join(m.Dir(id), sleep.File) }

// readSleep is nil for a VM that is not suspended.
func (m *Manager) readSleep(id string) (*Sleep, error) {
	b, err := sleep.Document.Read(m.SleepPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeSleep(b, id)
}

func decodeSleep(b []byte, id string) (*Sleep, error) {
	s, err := sleep.Decode(b, id)
	if err != nil {
		return nil, err
	}
	rec, err := decodeRecord(s.Record, id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sleep.File, err)
	}
	return &Sleep{s.Version, s.Snapshot, s.Since, s.Aside, rec}, nil
}

// Suspend makes a paused VM suspended on a snapshot, or puts it aside on it. The
// caller holds the VM's lock and the snapshot, and ends the VMM afterwards.
func (m *Manager) Suspend(rec *Record, snapshot store.ID, aside bool) error {
	if err := m.syncDisks(rec); err != nil {
		return err
	}
	asleep := *rec
	asleep.State, asleep.Process, asleep.Restore = Suspended, nil, nil
	s := &Sleep{Version: sleep.Version, Snapshot: snapshot, Since: time.Now().UTC(), Aside: aside, Record: &asleep}
	if err := m.writeSleep(rec.ID, s); err != nil {
		return errors.Join(err, m.forgetSleep(rec.ID)) // its name may exist all the same
	}
	rec.State, rec.Sleep = Suspended, s
	durable.Step("vm.suspend.asleep")
	return nil
}

// EndSuspended ends the VMM of a VM that has just been suspended.
func (m *Manager) EndSuspended(ctx context.Context, rec *Record) error {
	if err := m.Kill(ctx, rec.ID); err != nil {
		return err
	}
	rec.Process, rec.Restore = nil, nil
	durable.Step("vm.suspend.ended")
	return errors.Join(m.removeSockets(ctx, rec.ID), m.removeRooms(ctx, rec.ID), m.ReleaseMemory(rec.ID))
}

// syncDisks makes durable what the guest wrote: otherwise, after a power cut, its
// RAM would meet older disks.
func (m *Manager) syncDisks(rec *Record) error {
	for _, d := range rec.Disks {
		if d.File == "" {
			continue
		}
		f, err := os.Open(filepath.Join(m.Dir(rec.ID), d.File))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync disk %d of VM %s: %w", d.Index, rec.Name, err)
		}
	}
	return nil
}

// Wake ends the suspension of a VM whose RAM is loaded but which does not run
// yet. rec is its record from now on. From before Wake until the guest runs, a
// note says that it must be resumed.
func (m *Manager) Wake(rec *Record) error {
	rec.State, rec.LastError, rec.Sleep, rec.Exit = Running, "", nil, nil
	rec.Woken++
	if err := m.save(rec); err != nil {
		return err
	}
	durable.Step("vm.wake.saved")
	return m.forgetSleep(rec.ID)
}

// TakeBack undoes Wake for a guest that has not run since: was is the record as
// it was before, for a suspended VM with its Sleep.
func (m *Manager) TakeBack(was *Record) error {
	if was.Sleep == nil {
		return m.save(was)
	}
	asleep := *was
	asleep.Woken++ // as record.json says since
	s := *was.Sleep
	s.Record = &asleep
	return m.writeSleep(was.ID, &s)
}

func (m *Manager) writeSleep(id string, s *Sleep) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return sleep.Document.Write(m.SleepPath(id), b, 0o600)
}

// Failed notes that a VM has no process any more, and why.
func (m *Manager) Failed(rec *Record, why string) error {
	rec.Process, rec.State, rec.LastError = nil, Broken, why
	return m.save(rec)
}

func (m *Manager) forgetSleep(id string) error {
	if err := os.Remove(m.SleepPath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(m.Dir(id))
}

// WakeCold discards the RAM of a suspended VM: it is stopped from then on. It
// will be started with the given files.
func (m *Manager) WakeCold(ctx context.Context, ref string, with BootPaths) (*Record, error) {
	rec, unlock, err := m.Lock(ctx, ref, "vm start --cold")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Sleep == nil {
		return rec, nil
	}
	if err := m.MayRun(ctx, rec.ID); err != nil {
		return nil, err
	}
	given := *rec
	release, err := m.bootWith(ctx, rec, with)
	defer release()
	if err != nil {
		return nil, err
	}
	rec.State, rec.Sleep = Stopped, nil
	rec.Woken++
	if err := m.save(rec); err != nil {
		return nil, err
	}
	return &given, m.forgetSleep(rec.ID)
}

// settle cleans up after a verb that died; the VM's lock is held. That may be a
// VMM unknown to the record: for a suspended VM one that is paused since the
// suspension, or was loaded by a wake that did not finish; for any other VM one
// that was started and never recorded. And disks that no record names.
func (m *Manager) settle(ctx context.Context, rec *Record) error {
	if rec.State == Elsewhere {
		return m.elsewhere(ctx, rec.ID, rec.Name, m.Dir(rec.ID)+"/*")
	}
	if rec.Process == nil {
		var err error
		if rec.Unseated, err = m.unseat(ctx, rec.ID, rec.Name); err != nil {
			return err
		}
	}
	if rec.Sleep != nil { // an older program's VMM without disks has no lock
		if err := m.Kill(ctx, rec.ID); err != nil {
			return fmt.Errorf("end what is left of VM %s: %w", rec.Name, err)
		}
	}
	if err := durable.IgnoreMissing(os.Remove(m.makingPath(rec.ID))); err != nil {
		return err
	}
	return m.DropStrayDisks(rec)
}

// DropStrayDisks removes disks left over by an exchange.
func (m *Manager) DropStrayDisks(rec *Record) error {
	found, err := filepath.Glob(filepath.Join(m.Dir(rec.ID), diskGlob))
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, d := range rec.Disks {
		named[d.File] = true
	}
	for _, path := range found {
		if name := filepath.Base(path); madeDisk.MatchString(name) && !named[name] {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// The files of RAM in the folder of a VM whose RAM is mapped.
const (
	MemoryBase = "memory.base" // hard link to the materialised RAM
	MemoryBoot = "memory.boot" // what the VMM opens: the same while it loads, zeros from then on
	MemoryZero = "memory.zero" // the zeros, by the name that a confined VMM was told
	MemoryNew  = "memory.new"  // the zeros before they have the name of MemoryBoot
)

// memoryFiles are useless to a VM that does not run.
var memoryFiles = []string{MemoryBase, MemoryBoot, MemoryZero, MemoryNew}

// ReleaseMemory removes the RAM files of a VM without a process.
func (m *Manager) ReleaseMemory(id string) error {
	for _, name := range memoryFiles {
		if err := os.Remove(filepath.Join(m.Dir(id), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

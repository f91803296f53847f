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

// Sleep is vms/<id>/suspend.json. A VM is suspended exactly while this file is
// there: it has no process, its RAM is in the snapshot, and its disks are as its
// RAM believes them to be. To write the file is to suspend the VM, to remove it
// is to wake it; each is one rename or unlink, so a crash finds the VM on one
// side or the other.
type Sleep struct {
	Version  int       `json:"version"`
	Snapshot store.ID  `json:"snapshot"`
	Since    time.Time `json:"since"`
	// Aside says that the VM was only put aside while another state was to take
	// its place: if nobody does so any more, it is to run again.
	Aside bool `json:"aside,omitempty"`
	// Record is the VM as it fell asleep. While it sleeps this one counts, not
	// record.json: the disks that it names are those of the RAM.
	Record *Record `json:"record"`
}

// SleepPath is where the suspend.json of a VM lies.
func (m *Manager) SleepPath(id string) string { return filepath.Join(m.Dir(id), sleep.File) }

// readSleep is nil for a VM that does not sleep.
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

// Suspend is the moment from which a paused VM sleeps on a snapshot, or is put
// aside on it. The caller holds the VM's lock and the snapshot, and ends the VMM
// afterwards.
func (m *Manager) Suspend(rec *Record, snapshot store.ID, aside bool) error {
	if err := m.syncDisks(rec); err != nil {
		return err
	}
	asleep := *rec
	asleep.State, asleep.Process, asleep.Restore = Suspended, nil, nil
	s := &Sleep{Version: sleep.Version, Snapshot: snapshot, Since: time.Now().UTC(), Aside: aside, Record: &asleep}
	if err := m.writeSleep(rec.ID, s); err != nil {
		return errors.Join(err, m.forgetSleep(rec.ID)) // its name may be there all the same
	}
	rec.State, rec.Sleep = Suspended, s
	durable.Step("vm.suspend.asleep")
	return nil
}

// EndSuspended ends the VMM of a VM that has just fallen asleep.
func (m *Manager) EndSuspended(ctx context.Context, rec *Record) error {
	if err := m.Kill(ctx, rec.ID); err != nil {
		return err
	}
	rec.Process, rec.Restore = nil, nil
	durable.Step("vm.suspend.ended")
	return errors.Join(m.removeSockets(ctx, rec.ID), m.removeRooms(ctx, rec.ID), m.ReleaseMemory(rec.ID))
}

// syncDisks makes durable what the guest wrote: after a power cut its RAM would
// meet disks that are older than it is.
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

// Wake is the moment from which a VM whose RAM is loaded, but does not run yet,
// is no longer suspended. rec is its record from now on. A resume is owed from
// before Wake until the guest runs.
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
// it was before, of a suspended VM with its Sleep.
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

// WakeCold gives up the RAM of a suspended VM: it is stopped from here on. It is
// going to be started with the files that are named.
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

// settle puts right what a verb that died left behind; the VM's lock is held.
// That is a VMM of which the record does not know: of a suspended VM one that is
// paused since the VM fell asleep, or was loaded by a wake that did not come to its
// end, of any other one that was started and never written down. And disks that
// no record names.
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
	if err := ignoreMissing(os.Remove(m.makingPath(rec.ID))); err != nil {
		return err
	}
	return m.DropStrayDisks(rec)
}

// DropStrayDisks removes the disks that an exchange of them left over.
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

// memoryFiles are of no use to a VM that does not run.
var memoryFiles = []string{MemoryBase, MemoryBoot, MemoryZero, MemoryNew}

// ReleaseMemory gives up the RAM files of a VM without a process.
func (m *Manager) ReleaseMemory(id string) error {
	for _, name := range memoryFiles {
		if err := os.Remove(filepath.Join(m.Dir(id), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

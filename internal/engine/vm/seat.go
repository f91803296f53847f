package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// seatFile in a VM's folder is the file whose lock its VMM inherits ("sits on"):
// the VM has a VMM exactly while that is held, whichever process started it, in
// whatever PID namespace, and whatever the record says. A copy of the store has
// another file, without a holder.
const seatFile = "vmm.lock"

func (m *Manager) seatPath(id string) string { return filepath.Join(m.Dir(id), seatFile) }

// diskGlob are the writable disks of a VM.
const diskGlob = "disk-*"

func (m *Manager) taken(id string) (string, error) { return Taken(m.Dir(id)) }

// Taken returns the file in the folder of a VM that its VMM holds, "" if none:
// its seat, or a disk if an older program started it.
func Taken(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, diskGlob))
	for _, path := range append([]string{filepath.Join(dir, seatFile)}, files...) {
		held, herr := filelock.Held(path)
		if held {
			return path, nil
		}
		err = errors.Join(err, herr)
	}
	return "", err
}

// live corrects the record by what the kernel reports.
func (m *Manager) live(ctx context.Context, rec *Record) {
	p := rec.Process
	if p == nil {
		return
	}
	here := alive(p)
	if here && m.runs(ctx, rec) {
		return
	}
	here = here && !keeper.Ending(p.PID) // what has let go of its files is no other's
	rec.Process = nil
	younger := false
	if !here && p.BootID == bootID() {
		if file, err := m.taken(rec.ID); file != "" || err != nil {
			if younger = m.inSight(ctx, rec.ID); !younger {
				rec.State = Elsewhere
				return
			}
		}
	}
	if !rec.State.Up() {
		return
	}
	if here || younger { // not this VM's process, or not its last: its end is unknown
		rec.State = Stopped
		return
	}
	rec.State, rec.Exit = Stopped, m.exitOf(rec.ID, p)
	if rec.Exit.Bad() {
		rec.State, rec.LastError = Broken, rec.Exit.String()
	}
}

// inSight: a VMM of the VM and of this store is visible from here, and so can be
// ended, whatever the record says. One started in a PID namespace below this one
// is left to commands in there.
func (m *Manager) inSight(ctx context.Context, id string) bool {
	e, err := m.ownEntry(ctx, id)
	if err == nil {
		defer e.Close()
	} else {
		e = nil
	}
	found, _, err := m.find(ctx, id, e)
	return err == nil && slices.ContainsFunc(found, func(p *Process) bool {
		return pidNamespaceOf(strconv.Itoa(p.PID)) == pidNamespace()
	})
}

// unwritten: the VM has a visible VMM that its record, corrected by live, does
// not know, and no verb is at work that may be about to record it.
func (m *Manager) unwritten(ctx context.Context, rec *Record) bool {
	if rec.Process != nil || rec.State == Elsewhere {
		return false
	}
	if busy, err := filelock.Held(filepath.Join(m.Dir(rec.ID), lockFile)); busy || err != nil {
		return false
	}
	file, err := m.taken(rec.ID)
	return err == nil && file != "" && m.inSight(ctx, rec.ID)
}

// runs: the living process of a record belongs to this store. A copy has the same
// record.
func (m *Manager) runs(ctx context.Context, rec *Record) bool {
	if seated, err := filelock.HeldAlone(m.seatPath(rec.ID)); err == nil && seated {
		return true
	}
	return m.owns(ctx, rec.ID, nil, vmm{rec.Process.PID, rec.Process.APISocket})
}

// unseat ends a VMM that is not in the record of its VM: the process that started
// it died before recording it. The VM's lock is held, so no other process starts
// one now. A VMM that is not visible from here cannot be ended: failure.Conflict.
func (m *Manager) unseat(ctx context.Context, id, name string) (did bool, err error) {
	if file, err := m.taken(id); err != nil || file == "" {
		return false, err
	}
	if err := m.vacate(ctx, id, name); err != nil {
		return false, fmt.Errorf("end what is left of VM %s: %w", name, err)
	}
	return true, nil
}

// vacate ends the VMMs of a VM and waits until its files are released. If they
// stay locked, the holder is a VMM that is not visible.
func (m *Manager) vacate(ctx context.Context, id, name string) error {
	ended, err := m.endVMMs(ctx, id)
	if err != nil {
		return err
	}
	var file string
	return m.settled(ctx, ended, func() (_ bool, err error) {
		file, err = m.taken(id)
		return file == "", err
	}, func() error { return m.elsewhere(ctx, id, name, file) })
}

// settled waits until ended VMMs, so many of them, have released what they held.
func (m *Manager) settled(ctx context.Context, ended int, free func() (bool, error), not func() error) error {
	wait := m.o.Patience.Glance()
	if ended > 0 {
		wait = m.o.Patience.Call()
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(2 * time.Millisecond) {
		if ok, err := free(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(ctx.Err(), not())
		}
	}
}

// elsewhere is the refusal of verbs that would end, start or remove such a VM.
func (m *Manager) elsewhere(ctx context.Context, id, name, file string) error {
	why := "its VMM is not to be seen from here"
	if who, err := m.identity(ctx, id); err == nil && who.PIDNamespace != 0 && who.PIDNamespace != pidNamespace() {
		why = fmt.Sprintf("its processes belong to PID namespace %d, this is %d", who.PIDNamespace, pidNamespace())
	}
	return failure.Hint(failure.New(failure.Conflict, "VM %s runs elsewhere: %s", name, why),
		"use cocoon where the VM was started, such as in its container; fuser "+file+" there names the process")
}

// identity reads the identity of a VM's VMM from its entry, whichever store owns
// it.
func (m *Manager) identity(ctx context.Context, id string) (Identity, error) {
	e, err := m.run.Look(ctx, id)
	if err != nil {
		return Identity{}, err
	}
	defer e.Close()
	return readIdentity(e)
}

var identityDocument = durable.Document{Name: identityFile, Limit: 64 << 10}

func readIdentity(e *runfolder.Entry) (who Identity, err error) {
	b, err := e.Read(identityDocument, identityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return who, err
	}
	if err == nil {
		err = json.Unmarshal(b, &who)
	}
	if err != nil {
		return Identity{}, failure.New(failure.Damaged, "%s: %w", e.Path(identityFile), err)
	}
	return who, nil
}

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

// seatFile in a VM's folder is what its VMM sits on: it inherits the lock, so the
// VM has a VMM exactly while that is held, whoever started it, in whatever PID
// namespace, and whatever the record says. A copy of the store has another file,
// which nobody holds.
const seatFile = "vmm.lock"

func (m *Manager) seatPath(id string) string { return filepath.Join(m.Dir(id), seatFile) }

// diskGlob are the writable disks of a VM.
const diskGlob = "disk-*"

func (m *Manager) taken(id string) (string, error) { return Taken(m.Dir(id)) }

// Taken tells which file in the folder of a VM its VMM holds, "" when none: its
// seat, or a disk where an older program started it.
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

// live corrects what the record says by what the kernel says.
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
	if here || younger { // it is not this VM's, or not its last: nothing is known of its end
		rec.State = Stopped
		return
	}
	rec.State, rec.Exit = Stopped, m.exitOf(rec.ID, p)
	if rec.Exit.Bad() {
		rec.State, rec.LastError = Broken, rec.Exit.String()
	}
}

// inSight: a VMM of the VM that is this store's can be seen from here, and so be
// ended, whatever the record says. One that was started in a namespace of PIDs
// within this one is for those in there to end.
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

// unwritten: the VM has a VMM in sight of which its record, corrected by live, does
// not know, and no verb is at work that may be about to write it down.
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

// runs: the living process of a record is this store's. A copy has the record
// too.
func (m *Manager) runs(ctx context.Context, rec *Record) bool {
	if seated, err := filelock.HeldAlone(m.seatPath(rec.ID)); err == nil && seated {
		return true
	}
	return m.owns(ctx, rec.ID, nil, vmm{rec.Process.PID, rec.Process.APISocket})
}

// unseat ends a VMM of a VM that has none by its record: one whose starter died
// before it wrote that down. The VM's lock is held, so nobody starts one now.
// What cannot be seen from here cannot be ended: failure.Conflict.
func (m *Manager) unseat(ctx context.Context, id, name string) (did bool, err error) {
	if file, err := m.taken(id); err != nil || file == "" {
		return false, err
	}
	if err := m.vacate(ctx, id, name); err != nil {
		return false, fmt.Errorf("end what is left of VM %s: %w", name, err)
	}
	return true, nil
}

// vacate ends the VMMs of a VM and waits until they have let go of its files. One
// that stays taken is so by a VMM that cannot be seen.
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

// settled waits until VMMs, of which so many were ended, have let go of what they
// held.
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

// elsewhere is the refusal of every verb that would end, start or remove such a
// VM.
func (m *Manager) elsewhere(ctx context.Context, id, name, file string) error {
	why := "its VMM is not to be seen from here"
	if who, err := m.identity(ctx, id); err == nil && who.PIDNamespace != 0 && who.PIDNamespace != pidNamespace() {
		why = fmt.Sprintf("its processes belong to PID namespace %d, this is %d", who.PIDNamespace, pidNamespace())
	}
	return failure.Hint(failure.New(failure.Conflict, "VM %s runs elsewhere: %s", name, why),
		"use cocoon where the VM was started, such as in its container; fuser "+file+" there names the process")
}

// identity reads who the VMM of a VM is by its entry, whoever's that is.
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

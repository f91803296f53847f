package vm

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
)

// Garbage is the Source of the run folder, which several stores may use: sockets,
// logs and processes of VMs that no longer exist, and leftovers in the entries of
// those that do.
func (m *Manager) Garbage() garbage.Source {
	return garbage.Source{Objects: m.collect}
}

func (m *Manager) collect(ctx context.Context, r garbage.Run) error {
	all, err := m.Standing(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		key, ok := garbage.VMKey(s.ID)
		if !ok {
			continue
		}
		held := r.Held(key)
		switch mine := s.Mine || s.Empty; {
		case held && s.Mine:
			err = m.collectDead(r, s)
		case held && s.Owner.Store == "" && s.Wrong == nil: // an older program's
		case mine && !s.Hidden && !held:
			m.collectStanding(r, s, key)
		default:
			r.Leave(s.foreign(held))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collectStanding plans the end of an entry, and of the processes in it.
func (m *Manager) collectStanding(r garbage.Run, s Standing, key garbage.Key) {
	for _, pid := range s.PIDs {
		r.Judge(garbage.Object{Kind: garbage.Process, ID: strconv.Itoa(pid), Reason: "VMM of VM " + s.ID + ", which does not exist", Key: key})
	}
	r.Judge(garbage.Object{
		Kind: garbage.RunEntry, ID: s.ID, Path: s.Path, Reason: "its VM does not exist", Key: key,
		End: func(ctx context.Context) (string, error) { return "", m.EndStanding(ctx, s) },
	})
}

// collectDead handles leftovers in the entry of an existing VM: the socket of a
// live capture that was killed, and unfinished replacements of files.
func (m *Manager) collectDead(r garbage.Run, s Standing) error {
	c := &collected{m.st}
	for i, pid := range s.PIDs {
		if !s.Unwritten {
			break
		}
		o := garbage.Object{Kind: garbage.Process, ID: strconv.Itoa(pid), Reason: "VMM of VM " + s.ID + " that was never written down"}
		if i == 0 { // with the others
			o.End = func(ctx context.Context) (string, error) { return "", m.EndUnwritten(ctx, s) }
		}
		r.Judge(o)
	}
	if socket := filepath.Join(s.Path, MigrationSocketFile); exists(socket) && c.idle(s.ID) {
		r.Judge(garbage.Object{
			Kind: garbage.Temporary, ID: filepath.Join("run", s.ID, MigrationSocketFile), Path: socket, Reason: "the capture that listened is dead",
			Still: func() bool { return exists(socket) }, End: c.endIdle(s.ID, socket), // which asks for the lock again
		})
	}
	entries, err := durable.Entries(s.Path)
	for _, e := range entries {
		if !e.IsDir() {
			err = errors.Join(err, garbage.JudgeStray(r, filepath.Join("run", s.ID, e.Name()), filepath.Join(s.Path, e.Name()), false))
		}
	}
	return err
}

// foreign is an entry that this store must not end.
func (s *Standing) foreign(held bool) garbage.Foreign {
	f := garbage.Foreign{Kind: garbage.RunEntry, ID: s.ID, PIDs: s.PIDs}
	if f.PIDs == nil {
		f.PIDs = []int{}
	}
	switch {
	case s.Wrong != nil:
		f.Reason = s.Wrong.Error()
	case s.Mine:
		f.Reason = "a VMM that cannot be seen from here lives in it"
	case s.Owner.Store == "" && len(s.PIDs) > 0:
		f.Reason = "a VMM runs in it that is not known to be this store's"
	case s.Owner.Store == "":
		f.Reason = "it does not say whose it is; rm -r " + s.Path + ", if no VM uses it"
	case held:
		f.Owner, f.Reason = s.Owner.String(), "it belongs to "+s.Owner.String()+", of which this store is a copy"
	default:
		f.Owner, f.Reason = s.Owner.String(), "it belongs to "+s.Owner.String()
	}
	if s.Wrong == nil {
		f.Bytes = hostfacts.FileBytes(s.Path)
	}
	return f
}

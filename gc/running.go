package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// RunFolder is what gc asks of the room that runs VMs. Several stores may use one
// run folder.
type RunFolder interface {
	// Standing lists what lies in it, whoever made it.
	Standing(ctx context.Context) ([]vm.Standing, error)
	// EndStanding ends the VMMs of one that is this store's, and removes it.
	EndStanding(ctx context.Context, s vm.Standing) error
	// EndUnwritten ends the VMMs in one of which its VM does not know.
	EndUnwritten(ctx context.Context, s vm.Standing) error
}

// Foreign is what lies outside the store and is left alone because it is another
// store's, or nobody says whose it is.
type Foreign struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Bytes  int64  `json:"bytes"`
	Owner  string `json:"owner"` // "" where nobody says
	Reason string `json:"reason"`
	PIDs   []int  `json:"pids"`
}

// running: sockets, logs and processes of VMs that do not exist any more, and
// what died in the entries of those that do.
func (c *collector) running(p *plan) error {
	for _, s := range c.standing {
		o, ok := parseObject("vm:" + s.ID)
		if !ok {
			continue
		}
		err := error(nil)
		switch mine := s.Mine || s.Empty; {
		case p.held(o) && s.Mine:
			err = c.dead(p, s)
		case p.held(o) && s.Owner.Store == "" && s.Wrong == nil: // an older program's
		case mine && !s.Hidden && !p.held(o):
			c.endStanding(p, s, o)
		default:
			c.leave(p, s, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endStanding plans the end of an entry, and of the processes in it.
func (c *collector) endStanding(p *plan, s vm.Standing, o object) {
	for _, pid := range s.PIDs {
		p.victims = append(p.victims, victim{kind: "process", id: strconv.Itoa(pid), reason: "VMM of VM " + s.ID + ", which does not exist", object: o})
	}
	p.victims = append(p.victims, victim{kind: "run", id: s.ID, path: s.Path, reason: "its VM does not exist", bytes: store.FileBytes(s.Path), object: o, standing: &s})
}

// look asks who this store is, and lists what stands in the run folder. A store
// that cannot say owns nothing.
func (c *collector) look(ctx context.Context) (err error) {
	c.me, _ = c.st.Owner(ctx)
	if c.o.RunFolder != nil {
		c.standing, err = c.o.RunFolder.Standing(ctx)
	}
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// processesOf are the processes of a VM that is about to be undone.
func (c *collector) processesOf(ctx context.Context, id string) (ended []Removed, err error) {
	err = c.look(ctx)
	for _, s := range c.standing {
		for _, pid := range s.PIDs {
			if s.ID == id && s.Mine {
				ended = append(ended, Removed{"process", strconv.Itoa(pid), 0, "VMM of VM " + id + ", whose restore died half-way"})
			}
		}
	}
	return ended, err
}

// leave reports an entry that is not this store's to end.
func (c *collector) leave(p *plan, s vm.Standing, o object) {
	f := Foreign{Kind: "run", ID: s.ID, PIDs: s.PIDs}
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
	case p.held(o):
		f.Owner, f.Reason = s.Owner.String(), "it belongs to "+s.Owner.String()+", of which this store is a copy"
	default:
		f.Owner, f.Reason = s.Owner.String(), "it belongs to "+s.Owner.String()
	}
	if s.Wrong == nil {
		f.Bytes = store.FileBytes(s.Path)
	}
	c.rep.Foreign = append(c.rep.Foreign, f)
}

// dead is what processes left in the entry of a VM that there is: the socket on
// which a live capture listened that was killed at once, and files that were
// being written in place of others.
func (c *collector) dead(p *plan, s vm.Standing) error {
	for i, pid := range s.PIDs {
		if v := (victim{kind: "process", id: strconv.Itoa(pid), reason: "VMM of VM " + s.ID + " that was never written down", vm: s.ID}); s.Unwritten {
			if i == 0 { // with the others
				v.standing = &s
			}
			p.victims = append(p.victims, v)
		}
	}
	socket := filepath.Join(s.Path, vm.MigrationSocketFile)
	if exists(socket) && c.idle(s.ID) {
		p.victims = append(p.victims, victim{
			kind: "temporary", id: filepath.Join("run", s.ID, vm.MigrationSocketFile), path: socket, reason: "the capture that listened is dead",
			still: func() bool { return exists(socket) }, vm: s.ID, // its end asks for the lock again
		})
	}
	beside, err := filepath.Glob(filepath.Join(s.Path, ".tmp-*"))
	for _, path := range beside {
		err = errors.Join(err, c.temporary(p, filepath.Join("run", s.ID, filepath.Base(path)), path, false))
	}
	return err
}

// endRunning ends VMMs of VMs that do not exist and removes what lies outside
// the store; networks come after the VMMs, which hold their TAPs.
func (c *collector) endRunning(ctx context.Context, p *plan) {
	for _, end := range []func(context.Context, *victim) error{c.endOutside, c.removeNetwork} {
		for i := range p.victims {
			v := &p.victims[i]
			if err := end(ctx, v); err != nil {
				c.fail(v, err)
			}
		}
	}
}

// endOutside removes what lies outside the store.
func (c *collector) endOutside(ctx context.Context, v *victim) error {
	remove := func() error { return os.RemoveAll(v.path) }
	switch {
	case v.standing != nil && v.standing.Unwritten:
		return c.o.RunFolder.EndUnwritten(ctx, *v.standing)
	case v.standing != nil:
		return c.o.RunFolder.EndStanding(ctx, *v.standing)
	case v.kind == "staging" && v.vm == "":
		return remove()
	case v.kind == "staging", v.kind == "temporary" && !v.inStore && v.vm != "":
		_, err := c.whileIdle(v.vm, remove)
		return err
	case v.kind == "temporary" && !v.inStore:
		return remove()
	}
	return nil
}

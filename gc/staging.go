package gc

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/internal/owner"
	"github.com/cocoonv2/cocoon/store"
)

// staging takes the RAM folders that captures and restores of this store left on
// tmpfs when they were killed. A VM's lock file says whether somebody works on it.
func (c *collector) staging(p *plan) error {
	found, err := owner.Staged()
	if err != nil {
		return err
	}
	for _, path := range found {
		vm, tag, ok := owner.ParseStaging(path)
		if !ok || !ours(path) {
			continue
		}
		o, _ := parseObject("vm:" + vm)
		abandoned := func() bool { return !exists(c.st.Path("vms", vm)) && !p.held(o) || c.idle(vm) }
		switch {
		case c.me.Store == "" || tag != c.me.Tag():
			c.leaveStaged(path, tag)
		case abandoned():
			p.victims = append(p.victims, victim{
				kind: "staging", id: filepath.Base(path), path: path, reason: "its process is dead", bytes: store.FileBytes(path), still: abandoned,
			})
		}
	}
	return nil
}

// rooms takes the folders in which a VMM that confined itself might have written
// its RAM, once it is gone, and what a capture that was killed left in them.
func (c *collector) rooms(p *plan) error {
	if c.me.Store == "" {
		return nil
	}
	inRAM, err := c.me.Rooms()
	for vm, path := range inRAM {
		o, _ := parseObject("vm:" + vm)
		switch seated, serr := filelock.Held(c.st.Path("vms", vm, "vmm.lock")); {
		case !ours(path):
		case !exists(c.st.Path("vms", vm)) || serr == nil && !seated && !p.held(o): // no VM, or it goes in this run
			gone := func() bool { return !p.held(o) }
			if gone() {
				p.victims = append(p.victims, victim{kind: "staging", id: filepath.Base(path), path: path, reason: "its VM does not exist", bytes: store.FileBytes(path), still: gone})
			}
		case serr == nil && !seated:
			c.staleRAM(p, vm, path, "its VMM is gone")
		default:
			err = errors.Join(err, c.leftIn(p, vm, path))
		}
	}
	onDisk, gerr := filepath.Glob(c.st.Path("vms", "*", "staging"))
	for _, path := range onDisk {
		err = errors.Join(err, c.leftIn(p, filepath.Base(filepath.Dir(path)), path))
	}
	return errors.Join(err, gerr)
}

// leftIn takes what is in a room while no verb works on its VM.
func (c *collector) leftIn(p *plan, vm, room string) error {
	left, err := os.ReadDir(room)
	for _, e := range left {
		c.staleRAM(p, vm, filepath.Join(room, e.Name()), "its process is dead")
	}
	return err
}

func (c *collector) staleRAM(p *plan, vm, path, why string) {
	if idle := func() bool { return c.idle(vm) }; idle() {
		p.victims = append(p.victims, victim{kind: "staging", id: filepath.Base(path), path: path, reason: why, bytes: store.FileBytes(path), still: idle, vm: vm})
	}
}

// leaveStaged reports staged RAM that is not this store's: somebody may be
// working with it.
func (c *collector) leaveStaged(path, tag string) {
	why := "another store's"
	if tag == "" {
		why = "it does not say whose it is; rm -r " + path + ", if no VM is being saved or restored"
	}
	c.rep.Foreign = append(c.rep.Foreign, Foreign{Kind: "staging", ID: filepath.Base(path), Bytes: store.FileBytes(path), Reason: why, PIDs: []int{}})
}

// ours: a folder in the folder of everybody that no other user made there.
func ours(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

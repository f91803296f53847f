package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// staging handles RAM outside snapshots: on tmpfs, and in the rooms of confined
// VMMs. A store without an identity owns none of it.
func (c *collected) staging(ctx context.Context, r garbage.Run) error {
	me, _ := c.st.Owner(ctx)
	if err := c.staged(r, me); err != nil || me.Store == "" {
		return err
	}
	return c.rooms(r, me)
}

// staged collects the RAM folders that killed captures and restores of this store
// left on tmpfs. A VM's lock file shows whether a command works on it.
func (c *collected) staged(r garbage.Run, me owner.Mark) error {
	found, err := owner.Staged()
	if err != nil {
		return err
	}
	for _, path := range found {
		id, tag, ok := owner.ParseStaging(path)
		if !ok || !ours(path) {
			continue
		}
		key, _ := garbage.VMKey(id)
		abandoned := func() bool { return !exists(c.dir(id)) && !r.Held(key) || c.idle(id) }
		switch {
		case me.Store == "" || tag != me.Tag():
			leaveStaged(r, path, tag)
		case abandoned():
			r.Judge(garbage.Object{
				Kind: garbage.Staging, ID: filepath.Base(path), Path: path, Reason: "its process is dead", Still: abandoned, End: garbage.Remove(path),
			})
		}
	}
	return nil
}

// rooms collects the folders in which a confined VMM might have written its RAM,
// once it is gone, and what a killed capture left in them.
func (c *collected) rooms(r garbage.Run, me owner.Mark) error {
	inRAM, err := me.Rooms()
	for id, path := range inRAM {
		key, _ := garbage.VMKey(id)
		switch seated, serr := filelock.Held(filepath.Join(c.dir(id), seatFile)); {
		case !ours(path):
		case !exists(c.dir(id)) || serr == nil && !seated && !r.Held(key): // no VM, or it goes in this run
			gone := func() bool { return !r.Held(key) }
			if gone() {
				r.Judge(garbage.Object{
					Kind: garbage.Staging, ID: filepath.Base(path), Path: path, Reason: "its VM does not exist", Still: gone, End: garbage.Remove(path),
				})
			}
		case serr == nil && !seated:
			c.stale(r, id, path, "its VMM is gone")
		default:
			err = errors.Join(err, c.leftIn(r, id, path))
		}
	}
	onDisk, gerr := filepath.Glob(filepath.Join(c.dir("*"), roomName))
	for _, path := range onDisk {
		err = errors.Join(err, c.leftIn(r, filepath.Base(filepath.Dir(path)), path))
	}
	return errors.Join(err, gerr)
}

// leftIn collects what is in a room while no verb works on its VM.
func (c *collected) leftIn(r garbage.Run, id, room string) error {
	left, err := durable.Entries(room)
	for _, e := range left {
		c.stale(r, id, filepath.Join(room, e.Name()), "its process is dead")
	}
	return err
}

func (c *collected) stale(r garbage.Run, id, path, why string) {
	if idle := func() bool { return c.idle(id) }; idle() {
		r.Judge(garbage.Object{Kind: garbage.Staging, ID: filepath.Base(path), Path: path, Reason: why, Still: idle, End: c.endIdle(id, path)})
	}
}

// leaveStaged reports staged RAM that does not belong to this store: it may be in
// use.
func leaveStaged(r garbage.Run, path, tag string) {
	why := "another store's"
	if tag == "" {
		why = "it does not say whose it is; rm -r " + path + ", if no VM is being saved or restored"
	}
	r.Leave(garbage.Foreign{Kind: garbage.Staging, ID: filepath.Base(path), Bytes: hostfacts.FileBytes(path), Reason: why, PIDs: []int{}})
}

// ours: a folder in the shared folder that no other user made.
func ours(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

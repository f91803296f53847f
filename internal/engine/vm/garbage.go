package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// collected are the VMs of a store as a collector sees them.
type collected struct{ st *store.Store }

func (c *collected) dir(id string) string { return c.st.Path("vms", id) }

// doubts are about disks without a record, which may only be missing temporarily.
func (c *collected) doubts(_ context.Context, held func(garbage.Key) bool, tell func(garbage.Doubt)) error {
	return c.each(func(id string, key garbage.Key) error {
		if held(key) || exists(filepath.Join(c.dir(id), sleep.File)) {
			return nil
		}
		r, err := LookAt(c.dir(id))
		if err != nil || !r.Worth || r.Making || r.Recorded {
			return nil // worthless, being made, or no longer doubtful
		}
		tell(garbage.Doubt{Kind: garbage.VM, ID: id, Key: key, Reason: "has disks and no record", Path: c.dir(id)})
		return nil
	})
}

func (c *collected) objects(ctx context.Context, r garbage.Run) error {
	return errors.Join(c.folders(r), c.staging(ctx, r))
}

// folders: one without a record is a creation that died, unless a VMM holds its
// disks: one in another PID namespace, which cannot be ended from here.
func (c *collected) folders(r garbage.Run) error {
	return c.each(func(id string, key garbage.Key) error {
		dir := c.dir(id)
		if !r.Held(key) {
			r.Judge(garbage.Object{
				Kind: garbage.VM, ID: id, Key: key, Path: dir, Reason: "has no record and nobody is making it", InStore: true,
				Still: func() bool {
					file, err := Taken(dir)
					return file == "" && err == nil
				},
			})
		}
		if note := forgotten(dir); note != "" && c.idle(id) {
			r.Judge(garbage.Object{
				Kind: garbage.Temporary, ID: filepath.Join("vms", id, filepath.Base(note)), Path: note, Reason: "the VM is made", InStore: true,
				Still: func() bool { return forgotten(dir) != "" },
			})
		}
		return nil
	})
}

// each visits the folders of VMs.
func (c *collected) each(visit func(id string, key garbage.Key) error) error {
	var errs []error
	err := layout.EachEntry(c.st.Path("vms"), func(name []byte, _ uint64) {
		if key, ok := garbage.VMKey(string(name)); ok {
			errs = append(errs, visit(string(name), key))
		}
	})
	return errors.Join(append(errs, err)...)
}

// idle: the VM belongs to this store and no verb holds its lock.
func (c *collected) idle(id string) bool {
	idle, _ := c.whileIdle(id, func() error { return nil })
	return idle
}

// whileIdle does something under the lock of a VM of this store, unless a verb
// holds it.
func (c *collected) whileIdle(id string, do func() error) (idle bool, err error) {
	f, err := os.OpenFile(filepath.Join(c.dir(id), lockFile), os.O_RDWR, 0)
	if err != nil {
		return false, nil // gone with its VM
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	return true, do()
}

// endIdle is the End of what may only be removed under the lock of a VM.
func (c *collected) endIdle(id, path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		_, err := c.whileIdle(id, func() error { return os.RemoveAll(path) })
		return "", err
	}
}

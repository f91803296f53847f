package gc

import (
	"os"
	"path/filepath"
	"syscall"

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

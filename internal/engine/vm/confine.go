package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// Confinement says whether a VMM confines itself by Landlock to the files of its
// VM. "" is Unconfined.
type Confinement string

// The kinds of Confinement.
const (
	ConfinedIfPossible Confinement = "auto"
	Confined           Confinement = "on"
	Unconfined         Confinement = "off"
)

// minLandlock is the version of Landlock that the VMM needs: Linux 6.2.
const minLandlock = 3

// LandlockVersion is this kernel's version of Landlock, 0 if it has none.
var LandlockVersion = sync.OnceValue(func() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
})

// CanConfine reports whether VMMs can confine themselves on this host.
func CanConfine() bool { return LandlockVersion() >= minLandlock }

// confines reports whether the VMM of a VM is to confine itself. If the VM's own
// arguments mention Landlock, the operator decides.
func (m *Manager) confines(rec *Record) bool {
	return !asksForLandlock(rec) && (m.o.Confine == Confined || m.o.Confine == ConfinedIfPossible && CanConfine())
}

func asksForLandlock(rec *Record) bool {
	for _, a := range rec.ExtraArgs {
		if strings.HasPrefix(a, "--landlock") {
			return true
		}
	}
	return false
}

// checkConfine refuses what this kernel does not support.
func (m *Manager) checkConfine() error {
	if m.o.Confine != Confined || CanConfine() {
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "vmLandlock is on, and this kernel has version %d of Landlock, a VMM needs %d", LandlockVersion(), minLandlock),
		"boot Linux 6.2 or later with lsm=landlock,…, or set vmLandlock to auto")
}

// confineArgs are those of a cold boot. The VMM allows itself all files in its
// configuration; the rules are for TAPs, and for later requests.
func (m *Manager) confineArgs(ctx context.Context, rec *Record, a *chsnap.Args) {
	if !m.confines(rec) {
		return
	}
	a.Flag("--landlock")
	for _, dir := range m.makeRooms(ctx, rec.ID) {
		a.Options("--landlock-rules", chsnap.PathOption("path", dir), chsnap.WordOption("access", "rw"))
	}
	for _, dir := range rec.tapFolders() {
		a.Options("--landlock-rules", chsnap.PathOption("path", dir), chsnap.WordOption("access", "r"))
	}
}

// tapFolders is where the kernel describes the VM's TAPs. The VMM reads there how
// many queues a TAP opened by name has (net_util/src/open_tap.rs), which Landlock
// must allow. It sees the host's /sys from another netns too, where a TAP of the
// same name may be.
func (r *Record) tapFolders() (dirs []string) {
	for _, n := range r.Networks {
		if n.Tap == "" || strings.ContainsRune(n.Tap, '/') {
			continue
		}
		dir := filepath.Join("/sys/class/net", n.Tap)
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// roomName of the one on disk, in the folder of its VM.
const roomName = "staging"

// rooms are the folders in which a VMM may write its RAM when it is saved in file
// mode, in RAM and on disk. A confined VMM must be given them when it starts.
func (m *Manager) rooms(ctx context.Context, id string) []string {
	rooms := []string{filepath.Join(m.Dir(id), roomName)}
	if me, err := m.st.Owner(ctx); err == nil && me.Store != "" {
		rooms = append(rooms, me.RoomPath(id))
	}
	return rooms
}

// makeRooms returns those that exist and are ours alone. Without one a VM still
// runs, but cannot be saved in file mode.
func (m *Manager) makeRooms(ctx context.Context, id string) (made []string) {
	for _, dir := range m.rooms(ctx, id) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		if isRoom(dir) {
			made = append(made, dir)
		}
	}
	return made
}

// isRoom: the folder is ours alone. In /dev/shm other users may make one of the
// same name.
func isRoom(dir string) bool {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o700 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Room is where the VMM of a VM may write its RAM in file mode: in RAM if it fits
// there. "" for a VMM that was not given such a folder.
func (m *Manager) Room(ctx context.Context, id string, c *chsnap.Config) string {
	for _, dir := range m.rooms(ctx, id) {
		inRAM := filepath.Dir(dir) == owner.StagingFolder
		if !isRoom(dir) || !c.Confined() || !c.MayWrite(dir) || inRAM != (chsnap.PickStaging(c.MemoryBytes(), "") == owner.StagingFolder) {
			continue
		}
		return dir
	}
	return ""
}

// ClearRoom removes what a dead capture left in one; the VM's lock is held.
func ClearRoom(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// removeRooms of a VM without a VMM.
func (m *Manager) removeRooms(ctx context.Context, id string) error {
	var errs []error
	for _, dir := range m.rooms(ctx, id) {
		if isRoom(dir) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

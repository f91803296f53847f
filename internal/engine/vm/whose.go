package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// A VM's id does not show which store owns it: a copied store has the same ids,
// and may share a run folder with the original. The kernel shows the owner of a
// process: a VMM has files of its VM's folder open, at least its seat (seat.go).
// No signal is sent to a process of unknown owner.

// vmm is a process that was started with an API socket in the entry of a VM.
type vmm struct {
	pid    int
	socket string
}

// vmms finds the visible VMMs, by the id of their VM, in any run folder.
func vmms() (map[string][]vmm, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	found := map[string][]vmm{}
	for _, path := range all {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if socket := socketOf(pid); socket != "" {
			id := filepath.Base(filepath.Dir(socket))
			found[id] = append(found[id], vmm{pid, socket})
		}
	}
	return found, nil
}

// socketOf returns the API socket a process was started with, "" if it is no VMM
// of ours. A process that is gone or a zombie has no command line.
func socketOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	for arg := range bytes.SplitSeq(b, []byte{0}) {
		path, ok := strings.CutPrefix(string(arg), "path=")
		path, _, _ = strings.Cut(path, ",")
		if ok && strings.HasPrefix(filepath.Base(path), apiPrefix) && spelling.ID(filepath.Base(filepath.Dir(path))) {
			return path
		}
	}
	return ""
}

// sorted separates the VMMs of a VM that belong to this store from the others. e,
// which may be nil, is the VM's entry.
func (m *Manager) sorted(ctx context.Context, id string, e *runfolder.Entry, all []vmm) (ours, others []vmm) {
	for _, v := range all {
		if m.owns(ctx, id, e, v) {
			ours = append(ours, v)
		} else {
			others = append(others, v)
		}
	}
	return ours, others
}

func (m *Manager) owns(ctx context.Context, id string, e *runfolder.Entry, v vmm) bool {
	if m.holds(v.pid, id) {
		return true
	}
	if _, err := os.Lstat(m.Dir(id)); errors.Is(err, fs.ErrNotExist) {
		// The VM was removed under it. The entry in which it sits is marked.
		return e != nil && e.Mine && e.IsDir(filepath.Dir(v.socket))
	}
	return m.standsOn(ctx, id, v)
}

// holds: the process has a file of the VM's folder open.
func (m *Manager) holds(pid int, id string) bool {
	files := m.filesOf(id)
	if len(files) == 0 {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range open {
		path := filepath.Join(dir, fd.Name())
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			continue
		}
		ours, ok := files[[2]uint64{st.Dev, st.Ino}]
		if !ok {
			continue
		}
		if st.Nlink == 1 {
			return true
		}
		// A store copied by hard links has the same files by other names.
		if opened, err := os.Readlink(path); err == nil && opened == ours {
			return true
		}
	}
	return false
}

// filesOf are the regular files of a VM's folder, with their paths.
func (m *Manager) filesOf(id string) map[[2]uint64]string {
	files := map[[2]uint64]string{}
	entries, err := os.ReadDir(m.Dir(id))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || e.Name() == lockFile {
			continue
		}
		st := fi.Sys().(*syscall.Stat_t)
		files[[2]uint64{st.Dev, st.Ino}] = filepath.Join(m.Dir(id), e.Name())
	}
	return files
}

// standsOn is for a VM without writable disks whose VMM was started by an older
// program: it has no file of the VM's folder open. Such a VMM was given the path
// of the kernel, at its start or in its configuration.
func (m *Manager) standsOn(ctx context.Context, id string, v vmm) bool {
	if _, err := os.Lstat(m.seatPath(id)); err == nil {
		return false // it would sit on it
	}
	below := []byte(m.st.Root() + "/")
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", v.pid)); err == nil && bytes.Contains(b, below) {
		return true
	}
	info, err := chsnap.NewClient(v.socket, m.o.Patience).Info(ctx)
	return err == nil && info.Config != nil && bytes.Contains(info.Config.Bytes(), below)
}

// pids are for messages.
func pids(all []vmm) []int {
	var out []int
	for _, v := range all {
		out = append(out, v.pid)
	}
	slices.Sort(out)
	return out
}

// pidNamespace is the inode of the PID namespace of this process, in which pids
// are valid.
func pidNamespace() uint64 { return pidNamespaceOf("self") }

func pidNamespaceOf(process string) uint64 {
	fi, err := os.Stat("/proc/" + process + "/ns/pid")
	if err != nil {
		return 0
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// checkProc: /proc shows the processes that this one can signal.
func checkProc() error {
	self, err := os.Readlink("/proc/self")
	if err != nil || self != strconv.Itoa(os.Getpid()) {
		return failure.Hint(failure.New(failure.Incompatible, "/proc is of another PID namespace: this process is %d, there it is %q", os.Getpid(), self),
			"mount -t proc proc /proc")
	}
	return nil
}

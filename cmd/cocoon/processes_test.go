package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// process as /proc shows it. No tool is asked: a bare machine has neither pgrep
// nor pkill.
type process struct {
	pid, parent int
	args        string // separated by blanks
}

// processes that are there now and fit.
func processes(fits func(process) bool) []process {
	found, _ := filepath.Glob("/proc/[0-9]*")
	var out []process
	for _, dir := range found {
		p, ok := readProcess(dir)
		if ok && p.pid != os.Getpid() && fits(p) {
			out = append(out, p)
		}
	}
	return out
}

// readProcess is false for one that has ended meanwhile.
func readProcess(dir string) (process, bool) {
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return process{}, false
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, …
	pid, _ := strconv.Atoi(filepath.Base(dir))
	parent, _ := strconv.Atoi(fields[1])
	return process{pid: pid, parent: parent, args: strings.TrimSpace(string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))}, true
}

// below fits processes whose arguments name something in a folder.
func below(dir string) func(process) bool {
	return func(p process) bool { return strings.Contains(p.args, dir+"/") }
}

// killLeftovers ends VMMs and helpers of a run folder that a failed test left.
func killLeftovers(run string) {
	for _, p := range processes(below(run)) {
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may have ended by itself
	}
}

// leaveNothing ends what runs below a run folder and removes it, with what its VMs
// have in /dev/shm: the store that would collect that goes with the test.
func leaveNothing(run string) {
	killLeftovers(run)
	vms, _ := os.ReadDir(run) // it may be gone already
	for _, vm := range vms {
		rooms, _ := filepath.Glob(filepath.Join(owner.StagingFolder, "cocoon-*-"+vm.Name()+"*"))
		for _, room := range rooms {
			os.RemoveAll(room)
		}
	}
	os.RemoveAll(run)
}

// leaveNoRooms removes what VMs of a store have in /dev/shm, whatever their records
// say.
func leaveNoRooms(root string) {
	id, _ := owner.Read(root) // what cannot be read has none
	mark, err := owner.At(root, id)
	if err != nil {
		return
	}
	rooms, _ := mark.Rooms()
	for _, room := range rooms {
		os.RemoveAll(room)
	}
}

func TestProcessesAreFoundInProc(t *testing.T) {
	self, ok := readProcess("/proc/self")
	if !ok || self.parent != os.Getppid() || !strings.Contains(self.args, filepath.Base(os.Args[0])) {
		t.Errorf("the test itself is %+v, its parent is %d", self, os.Getppid())
	}
}

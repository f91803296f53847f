package filelock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is a process that holds a lock, as far as this one can see. It is for
// display: by the time it is read, another process may hold the lock.
type Holder struct {
	PID     int
	Command string
	Since   time.Time // when it took the lock, if noted; else when it was started
	state   string    // as in /proc/PID/stat
}

func (h *Holder) String() string {
	return fmt.Sprintf("%s (pid %d, since %s)", h.Command, h.PID, h.Since.UTC().Format(time.RFC3339))
}

// remedy is what an operator in a hurry can do.
func (h *Holder) remedy() string {
	switch {
	case h == nil:
		return "repeat the command; lslocks shows the holder"
	case h.state == "T":
		return fmt.Sprintf("process %d is stopped: kill -CONT %[1]d resumes it, kill %[1]d before that ends it", h.PID)
	}
	return fmt.Sprintf("wait for process %d and repeat the command, or end it: kill %[1]d", h.PID)
}

// WhoHolds finds a process that holds path by flock(2): one that the kernel names
// and that has the file open. nil if there is none, or none can be seen, such as
// a process of another PID namespace. The kernel's list has gaps when locks
// change while it is read, so it is read again.
func WhoHolds(path string) *Holder {
	for range 5 {
		if h := nowHolds(path); h != nil {
			return h
		}
	}
	return nil
}

func nowHolds(path string) *Holder {
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Stat(path, &st) != nil {
		return nil
	}
	for line := range bytes.Lines(locks) {
		pid, inode, ok := flockOf(string(line))
		if !ok || inode != st.Ino || !hasOpen(pid, &st) {
			continue
		}
		if h := holder(pid, path); h != nil {
			return h
		}
	}
	return nil
}

// flockOf reads a line of /proc/locks, as "1: FLOCK  ADVISORY  WRITE 4711
// fd:00:1234 0 EOF"; waiters have an arrow.
func flockOf(line string) (pid int, inode uint64, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] != "FLOCK" {
		return 0, 0, false
	}
	pid, err := strconv.Atoi(f[4])
	at := strings.LastIndexByte(f[5], ':')
	if err != nil || pid <= 0 || at < 0 {
		return 0, 0, false
	}
	inode, err = strconv.ParseUint(f[5][at+1:], 10, 64)
	return pid, inode, err == nil
}

// HasOpen reports whether a process has a file open, as far as this one can see.
func HasOpen(pid int, path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && hasOpen(pid, &st)
}

// hasOpen also compares the file system, since inode numbers repeat across them.
func hasOpen(pid int, st *unix.Stat_t) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		var its unix.Stat_t
		if unix.Stat(fd, &its) == nil && its.Ino == st.Ino && its.Dev == st.Dev {
			return true
		}
	}
	return false
}

func holder(pid int, path string) *Holder {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	stat, serr := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3 on
	if err != nil || serr != nil || len(f) < 20 {
		return nil
	}
	h := &Holder{PID: pid, state: f[0], Since: started(f[19])}
	argv := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
	argv[0] = filepath.Base(argv[0])
	if h.Command = strings.Join(argv, " "); len(h.Command) > commandBytes {
		h.Command = h.Command[:commandBytes] + "…"
	}
	if _, noted, ok := strings.Cut(ReadNote(path), fmt.Sprintf("(pid %d, since ", pid)); ok {
		if at, err := time.Parse(time.RFC3339, strings.TrimSuffix(noted, ")")); err == nil {
			h.Since = at
		}
	}
	return h
}

// commandBytes is how much of a command line is shown.
const commandBytes = 80

// ticksPerSecond of /proc/PID/stat, on all that Linux runs on here.
const ticksPerSecond = 100

// started is the time of a process's start, which the kernel counts from the boot.
func started(ticks string) time.Time {
	n, _ := strconv.ParseInt(ticks, 10, 64)
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(n)*time.Second/ticksPerSecond - time.Duration(now.Nano()))
}

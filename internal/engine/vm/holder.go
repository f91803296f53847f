package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// holder is the command that holds a VM's lock.
type holder struct {
	pid   int
	fd    int // pidfd
	note  string
	state string // as in /proc/PID/stat
}

var notedPID = regexp.MustCompile(`\(pid ([0-9]+),`)

// holderOf finds the process that holds a lock: the one in the note, if it has
// that very file open. nil if there is none, or none visible from here.
func holderOf(lock string) *holder {
	note := filelock.ReadNote(lock)
	m := notedPID.FindStringSubmatch(note)
	if m == nil {
		return nil
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	h := &holder{pid: pid, fd: fd, note: note}
	if h.state, err = processState(pid); err != nil || !filelock.HasOpen(pid, lock) {
		h.close()
		return nil
	}
	return h
}

func (h *holder) close() { _ = unix.Close(h.fd) }

// stopped: by a signal such as that of ^Z; SIGCONT resumes it.
func (h *holder) stopped() bool { return h.state == "T" }

// traced: by a debugger, which controls it.
func (h *holder) traced() bool { return h.state == "t" }

// end asks a stopped process to undo what it began, and lets it do so.
func (h *holder) end() error {
	return errors.Join(unix.PidfdSendSignal(h.fd, unix.SIGTERM, nil, 0), unix.PidfdSendSignal(h.fd, unix.SIGCONT, nil, 0))
}

func processState(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) == 0 {
		return "", fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return f[0], nil
}

// explainBusy adds the remedy to the error of a lock whose holder is stopped.
func explainBusy(err error, lock string) error {
	h := holderOf(lock)
	if h == nil || !errors.Is(err, failure.Busy) {
		return err
	}
	defer h.close()
	switch {
	case h.stopped():
		return failure.Hint(err, fmt.Sprintf("process %d is stopped: kill -CONT %[1]d resumes it, kill %[1]d before that ends it", h.pid))
	case h.traced():
		return failure.Hint(err, fmt.Sprintf("process %d is stopped by a debugger: kill -9 %[1]d ends it", h.pid))
	}
	return failure.Hint(err, fmt.Sprintf("wait for process %d, or end it: kill %[1]d, and kill -9 %[1]d if it hangs", h.pid))
}

// endStopped ends a command that was stopped while a guest is paused for it;
// false if there is none.
func (m *Manager) endStopped(id string) (bool, error) {
	if _, err := os.Stat(m.OwedPath(id)); err != nil {
		return false, durable.IgnoreMissing(err)
	}
	h := holderOf(filepath.Join(m.Dir(id), lockFile))
	if h == nil {
		return false, nil
	}
	defer h.close()
	if !h.stopped() {
		return false, nil
	}
	if err := h.end(); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("end %s: %w", h.note, err)
	}
	return true, nil
}

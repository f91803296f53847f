package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keeping is a keeper at work.
type keeping struct {
	dir    string
	logMax int64
	of     Target
	pidfd  int
	child  bool // the VMM is ours; else it was taken over
	events int  // descriptor, -1 where there are none
	logs   []*bounded

	told    []byte // of an event that is not whole yet
	orderly bool
	console console
}

func (k *keeping) close() {
	for _, l := range k.logs {
		l.f.Close()
	}
	for _, fd := range []int{k.events, k.pidfd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (k *keeping) openLogs() error {
	for _, name := range []string{SerialLog, VMMLog} {
		l, err := openBounded(filepath.Join(k.dir, name), k.logMax)
		if err != nil {
			return err
		}
		k.logs = append(k.logs, l)
	}
	k.logs[0].seeNew = k.hear
	return nil
}

// The pause between two checks of the logs: short while much comes, since a guest
// can print a MiB in some seconds.
const (
	shortPause = 50 * time.Millisecond
	longPause  = time.Second
)

// watch runs until the VMM has ended, and returns how.
func (k *keeping) watch() (*End, error) {
	for pause := shortPause; ; {
		ended, err := k.wait(pause)
		if err != nil {
			return nil, err
		}
		if ended {
			return k.end(), nil
		}
		pause = k.lookAtLogs(pause)
	}
}

// wait handles events until a pause is over or the VMM has ended.
func (k *keeping) wait(pause time.Duration) (ended bool, err error) {
	for until := time.Now().Add(pause); ; {
		fds := []unix.PollFd{{Fd: int32(k.pidfd), Events: unix.POLLIN}}
		if k.events >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(k.events), Events: unix.POLLIN})
		}
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for process %d: %w", k.of.PID, err)
		}
		if n <= 0 {
			continue
		}
		if len(fds) > 1 && fds[1].Revents != 0 {
			k.hearEvents()
		}
		if fds[0].Revents != 0 {
			return true, nil
		}
	}
}

// lookAtLogs returns the next pause. A log that cannot be checked is left to the
// next keeper.
func (k *keeping) lookAtLogs(pause time.Duration) time.Duration {
	// Its priority was lowered during the start of the VMM.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
	much := false
	for _, l := range k.logs {
		came, _ := l.look()
		much = much || came > l.max/32
	}
	if much {
		return shortPause
	}
	return min(2*pause, longPause)
}

// end is made when the VMM has ended.
func (k *keeping) end() *End {
	if k.events >= 0 {
		k.hearEvents()
	}
	e := &End{Target: k.of, At: time.Now().UTC(), Orderly: k.orderly}
	if k.child {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(k.of.PID, &ws, 0, nil); err == nil {
			e.status(ws)
		}
	} else if ws, ok := statusOf(k.pidfd); ok {
		e.status(ws)
	}
	k.lookAtLogs(0)
	e.LastLog = clip(LastLine(filepath.Join(k.dir, VMMLog)))
	return e
}

// statusWait is how long another parent may take to collect the status, before
// which the kernel does not report it.
const statusWait = 200 * time.Millisecond

// statusOf asks the kernel, which reports it to other processes than the parent
// since Linux 6.15.
func statusOf(pidfd int) (unix.WaitStatus, bool) {
	for until := time.Now().Add(statusWait); time.Now().Before(until); time.Sleep(time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if err := unix.IoctlPidfdInfo(pidfd, &info); err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return unix.WaitStatus(info.Exit_code), true
		}
	}
	return 0, false
}

// lineBytes limits a recorded line, bytes.
const lineBytes = 400

func clip(s string) string {
	if len(s) > lineBytes {
		s = s[:lineBytes]
	}
	return strings.ToValidUTF8(s, "�")
}

// eventsBytes bounds an event, bytes.
const eventsBytes = 64 << 10

// hearEvents reads the VMM's events: JSON objects, each followed by an empty
// line.
func (k *keeping) hearEvents() {
	buf := make([]byte, eventsBytes)
	n, err := unix.Read(k.events, buf)
	if n <= 0 {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			unix.Close(k.events) // the VMM has closed it
			k.events = -1
		}
		return
	}
	k.told = append(k.told, buf[:n]...)
	for {
		one, rest, whole := bytes.Cut(k.told, []byte("\n\n"))
		if !whole {
			break
		}
		k.told = rest
		k.hearEvent(one)
	}
	if len(k.told) > eventsBytes {
		k.told = nil
	}
}

func (k *keeping) hearEvent(b []byte) {
	var e struct {
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}
	if json.Unmarshal(b, &e) != nil {
		return
	}
	switch e.Source + " " + e.Event {
	case "guest panic":
		if e.Properties["event"] == "panic" {
			k.panicked("pvpanic", "")
		}
	case "vm rebooted", "vm booted":
		k.rose()
	case "vmm shutdown":
		k.orderly = true
	}
}

// panicked records that the guest is dead; only the first report counts.
func (k *keeping) panicked(from, line string) {
	path := filepath.Join(k.dir, panicFile)
	if ReadPanic(k.dir, k.of) != nil {
		return
	}
	_ = writeNote(path, Panic{Target: k.of, At: time.Now().UTC(), From: from, Line: clip(line)})
}

// rose: the guest boots again.
func (k *keeping) rose() { _ = os.Remove(filepath.Join(k.dir, panicFile)) }

// hear reads what the guest prints.
func (k *keeping) hear(text []byte) {
	k.console.lines(text, func(line []byte) {
		switch {
		case bytes.Contains(line, []byte("Kernel panic - not syncing")):
			k.panicked("console", string(line))
		case bytes.Contains(line, []byte("] Linux version ")):
			k.rose()
		}
	})
}

// console cuts a stream into lines.
type console struct{ part []byte }

func (c *console) lines(text []byte, see func(line []byte)) {
	for len(text) > 0 {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		text = rest
		if room := lineBytes - len(c.part); room > 0 {
			c.part = append(c.part, line[:min(len(line), room)]...)
		}
		if !whole {
			return
		}
		see(bytes.TrimSpace(c.part))
		c.part = c.part[:0]
	}
}

package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// Kept reports whether a run folder's VMM has a keeper.
func Kept(dir string) (bool, error) { return filelock.Held(filepath.Join(dir, lockFile)) }

// TakeOver starts a keeper for a VMM that has none. It returns false if another
// process has just done so.
func (p Program) TakeOver(dir string, logMax int64, of Target) (bool, error) {
	lock, err := filelock.TryExclusive(filepath.Join(dir, lockFile))
	if errors.Is(err, filelock.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Detach() // it is the keeper's from then on
	log, err := os.OpenFile(filepath.Join(dir, VMMLog), os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer log.Close()
	job := Job{LogMax: logMax}
	cmd := exec.Command(string(p), Verb, dir, strconv.FormatInt(job.logMax(), 10), "0", strconv.Itoa(of.PID), strconv.FormatUint(of.StartTime, 10))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{nil, nil, nil, lock.File()}
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := start(cmd, nil); err != nil {
		return false, fmt.Errorf("start a keeper: %w", err)
	}
	go func() { _ = cmd.Wait() }() // until the VMM ends, if this process lives as long
	return true, nil
}

// takeOver is the keeper's side of it.
func (k *keeping) takeOver(startTime string) (err error) {
	if k.of.StartTime, err = strconv.ParseUint(startTime, 10, 64); err != nil {
		return err
	}
	if k.pidfd, err = unix.PidfdOpen(k.of.PID, 0); err != nil {
		return err
	}
	// From here on the pid is nobody else's.
	if is, err := StartTime(k.of.PID); err != nil || is != k.of.StartTime {
		return errors.Join(errors.New("it is another process by now"), err)
	}
	k.events = eventsOf(k.of.PID)
	return nil
}

// eventsOf opens the event pipe of a VMM whose keeper has died, -1 if there is
// none.
func eventsOf(pid int) int {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, eventsFD)
	if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "pipe:") {
		return -1
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// StartTime reads field 22 of /proc/PID/stat, clock ticks since boot;
// os.ErrProcessDone too of a process that has ended and waits for its parent.
func StartTime(pid int) (uint64, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	// The first thread may be gone while others still hold sockets and locks.
	if threads, terr := strconv.Atoi(f[17]); err == nil && f[0] == "Z" && (terr != nil || threads <= 1) {
		err = os.ErrProcessDone
	}
	return start, err
}

// stat are the fields of /proc/PID/stat from the third on.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return f, nil
}

// exiting is PF_EXITING of linux/sched.h, in field 9.
const exiting = 0x4

// Ending reports whether a process has ended or is ending: it releases its files
// before its end is reported, and still exists while it does.
func Ending(pid int) bool {
	f, err := stat(pid)
	if err != nil {
		return true
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	return err == nil && flags&exiting != 0
}

// lockWait is how long a process that only checks may hold the lock.
const lockWait = 2 * time.Second

// AwaitEnd waits until a run folder has no keeper, which ends right after its
// VMM. One that does not was stopped, and is killed. One whose VMM lives is left
// alone.
func AwaitEnd(ctx context.Context, dir string, wait time.Duration) error {
	dir = filepath.Clean(dir)
	for {
		if kept, err := Kept(dir); err != nil || !kept {
			return err
		}
		lock, err := within(ctx, dir, wait)
		if err == nil {
			return lock.Unlock()
		}
		if !errors.Is(err, failure.Busy) {
			return fmt.Errorf("wait for the end of a keeper: %w", err)
		}
		if killed, err := killIdle(dir); err != nil || killed == 0 {
			return err
		}
	}
}

// within takes the lock of a run folder.
func within(ctx context.Context, dir string, wait time.Duration) (*filelock.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return filelock.Exclusive(ctx, filepath.Join(dir, lockFile))
}

// killIdle ends the keepers of a run folder whose VMM has ended.
func killIdle(dir string) (killed int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, proc := range all {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended meanwhile
		}
		if idle(pid, dir) {
			killed++
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil && !errors.Is(err, unix.ESRCH) {
			return killed, err
		}
	}
	return killed, nil
}

// idle: the command line of a process is that of a keeper of the folder, and the
// VMM that it names has ended.
func idle(pid int, dir string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if err != nil || len(args) < 6 || args[1] != Verb || args[2] != dir {
		return false
	}
	vmm, err := strconv.Atoi(args[5])
	if err != nil {
		return false
	}
	_, err = StartTime(vmm)
	return err != nil
}

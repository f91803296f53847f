package chsnap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Watched is the guarded process, as seen by its guard.
type Watched struct {
	conn    net.Conn
	process *os.File // pidfd
	say     func(text string)

	silence time.Duration // the silence it allows itself; 0 before its first beat
	asked   bool          // to end
}

// Guarding takes over descriptors 3 and 4, which Watch gives to a guard process.
// Messages, one line each, go to say.
func Guarding(say func(text string)) (*Watched, error) {
	end, process := os.NewFile(3, "guard"), os.NewFile(4, "pidfd")
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, failure.New(failure.Usage, "a guard is started by cocoon itself: %w", err)
	}
	if err := end.Close(); err != nil {
		return nil, err
	}
	return &Watched{conn: conn, process: process, say: say}, nil
}

// Abandoned waits for the end of the guarded process: true if it died, false if
// it released the guard. A process that shows no life is ended.
func (w *Watched) Abandoned() (bool, error) {
	deaf(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer w.conn.Close()
	msg := make([]byte, 64)
	for missed := 0; ; {
		if w.silence > 0 {
			if err := w.conn.SetReadDeadline(time.Now().Add(w.silence / beatsPerSilence)); err != nil {
				return false, fmt.Errorf("guard: %w", err)
			}
		}
		n, err := w.conn.Read(msg)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if missed++; missed > beatsPerSilence {
				w.end()
				missed = 0
			}
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), err == nil && n == 0:
			return true, nil
		case err != nil:
			return false, fmt.Errorf("guard: %w", err)
		case string(msg[:n]) == released:
			return false, nil
		default:
			missed = 0
			if err := w.heard(string(msg[:n])); err != nil {
				return false, err
			}
		}
	}
}

// deaf receives signals and ignores them; ignoring them in the kernel would be
// inherited by child processes.
func deaf(sig ...os.Signal) { signal.Notify(make(chan os.Signal, 1), sig...) }

func (w *Watched) heard(beat string) (err error) {
	if w.silence, err = time.ParseDuration(beat); err != nil || w.silence <= 0 {
		return failure.New(failure.Usage, "guard: %q is no beat", beat)
	}
	_, _ = w.conn.Write([]byte(echo)) // a process that died meanwhile is noticed at the next read
	return nil
}

// end ends a stopped process: first so that it can undo its work, then
// unconditionally. Its socket shows when it is gone.
func (w *Watched) end() {
	fd := int(w.process.Fd())
	if w.asked {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		return
	}
	w.asked = true
	w.say(fmt.Sprintf("process %d stood still for %s while a guest waited for it: it is ended", os.Getppid(), w.silence))
	_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
	_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
}

// RunGuard is the body of the guard process; args are the socket, the staging
// folder, the files of GuardOptions.Unless and Owed, and the nanoseconds in which
// the VMM must be done with earlier requests. When the guarded process is gone,
// the VM is resumed, if the files say so, and the staged RAM removed.
func RunGuard(args []string, w *Watched) error {
	if len(args) != 5 {
		return failure.New(failure.Usage, "the guard takes a socket, a folder, two files and a time")
	}
	within, err := strconv.ParseInt(args[4], 10, 64)
	if err != nil {
		return failure.New(failure.Usage, "the guard's time: %w", err)
	}
	abandoned, err := w.Abandoned()
	if err != nil || !abandoned {
		return err
	}
	if unless, owed := args[2], args[3]; (unless == "" || !exists(unless)) && (owed == "" || exists(owed)) {
		err = NewClient(args[0], 0).EnsureRunning(context.Background(), time.Duration(within))
	}
	return errors.Join(err, os.RemoveAll(args[1]))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

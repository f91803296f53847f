// Package filelock is flock(2) for many short processes on one host.
//
// A [Lock] is one open file description with a lock on it. The kernel drops it
// when the last descriptor is closed, also by SIGKILL or panic, so a lock that
// can be taken proves that no holder lives: liveness is never guessed from age
// or from a pid in a file. A child that inherits the descriptor keeps the lock
// for its own life.
//
// Invariants:
//
//  1. A lock file that several processes open is never unlinked while it may be
//     waited for; per-holder files are unlinked only under another lock.
//  2. Waiting obeys the context. A deadline that passes is failure.Busy and names
//     the holder; a cancelled context stays context.Canceled. A long wait is
//     reported ([Waits]), whatever lock it is for.
//  3. The note in a lock file is for human readers, never truth.
//
// fcntl(2) record locks are not used: the traditional ones vanish when any
// descriptor of the file is closed anywhere in the process, and those of open
// file descriptions are what VMMs lock their disks with. The two kinds do not
// interact, so a disk can have both.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// ErrLocked says that another open file description holds the lock.
var ErrLocked = errors.New("lock is held")

// Lock is a held lock. It is not safe for concurrent use.
type Lock struct{ f *os.File }

// Shared waits for a shared lock on path, which it creates with mode 0600 if
// missing.
func Shared(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_SH, lastPause)
}

// Exclusive waits for an exclusive lock on path, which it creates with mode 0600
// if missing.
func Exclusive(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_EX, lastPause)
}

// Brief is Exclusive for a lock that is only ever held for instants.
func Brief(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_EX, instantPause)
}

// TryExclusive takes an exclusive lock or returns ErrLocked at once.
func TryExclusive(path string) (*Lock, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := try(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f: f}, nil
}

// Held reports whether path is locked exclusively; false if there is no such
// file. It checks by taking a shared lock for an instant, so that checks do not
// mistake each other for the holder; code that takes the lock must be ready to
// wait for them.
func Held(path string) (bool, error) { return refused(path, unix.LOCK_SH) }

// HeldAtAll reports whether path is locked, exclusively or shared. It checks by
// taking an exclusive lock for an instant, so code that takes the lock must be
// ready to wait.
func HeldAtAll(path string) (bool, error) { return refused(path, unix.LOCK_EX) }

// refused reports whether a lock cannot be had at once; false if there is no such
// file.
func refused(path string, how int) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	err = try(f, how)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	return false, err
}

// HeldAlone is Held of a file that has no other name, by which another file could
// have been locked.
func HeldAlone(path string) (bool, error) {
	held, err := Held(path)
	var st unix.Stat_t
	if held && err == nil {
		err = unix.Lstat(path, &st)
	}
	return held && err == nil && st.Nlink == 1, err
}

// ExclusiveExisting waits for an exclusive lock on a file that must exist.
// Processes with several threads release their locks an instant after they are
// seen to have ended.
func ExclusiveExisting(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_EX, lastPause)
}

// SharedExisting waits for a shared lock on a file that must exist; it does not
// write to it.
func SharedExisting(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_SH, lastPause)
}

// ExclusiveFolder is Brief on a folder itself, for work on it before it contains
// any file.
func ExclusiveFolder(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_EX, instantPause)
}

// Used reports whether a file is locked exclusively: by flock(2), as this package
// does, or by fcntl(2), as VMMs do on the disks they write to.
func Used(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return used(f)
}

func used(f *os.File) (bool, error) {
	err := try(f, unix.LOCK_SH)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for locks on %s: %w", f.Name(), err)
	}
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("look for locks on %s: %w", f.Name(), err)
	}
	return l.Type == unix.F_WRLCK, nil
}

// Unused refuses a file that may be being written to, of which a copy would not
// be of one moment: failure.Conflict.
func Unused(path string) error {
	used, err := Used(path)
	if err != nil || !used {
		return err
	}
	return inUse(path)
}

// UnusedFile is Unused for an open file; it holds a shared lock from then on.
func UnusedFile(f *os.File) error {
	used, err := used(f)
	if err != nil || !used {
		return err
	}
	return inUse(f.Name())
}

func inUse(path string) error {
	return failure.Hint(failure.New(failure.Conflict, "%s is in use by a running VM", path), "stop the VM, or take a snapshot of it")
}

// The pause between two tries doubles from the first to the last value; its
// maximum is lower for locks held for instants only.
const (
	firstPause   = 200 * time.Microsecond
	lastPause    = 10 * time.Millisecond
	instantPause = 500 * time.Microsecond
)

// wait polls, because a blocking flock cannot be cancelled.
func wait(ctx context.Context, path string, how int, longest time.Duration) (*Lock, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, how, longest)
}

// waitFor reports the wait, and limits one for a lock held for instants, as the
// context says.
func waitFor(ctx context.Context, f *os.File, path string, how int, longest time.Duration) (*Lock, error) {
	n := newNotice(ctx, path)
	if longest == instantPause {
		var cancel context.CancelFunc
		ctx, cancel = n.bound(ctx)
		defer cancel()
	}
	lock, err := poll(ctx, f, path, how, longest, n)
	return lock, explain(path, err)
}

// poll is a wait whose failure waitFor or Pair explains.
func poll(ctx context.Context, f *os.File, path string, how int, longest time.Duration, n *notice) (lock *Lock, err error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := firstPause; ; pause = min(2*pause, longest) {
		if err = ctx.Err(); err == nil {
			err = try(f, how)
		}
		if err == nil {
			return &Lock{f: f}, nil
		}
		if !errors.Is(err, ErrLocked) {
			break
		}
		n.look()
		timer.Reset(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	f.Close()
	return nil, err
}

// explain names the holder of a lock that was not obtained.
func explain(path string, err error) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	h := WhoHolds(path)
	who := ReadNote(path)
	switch {
	case who != "":
	case h != nil:
		who = h.String()
	default:
		who = "another process"
	}
	return failure.Hint(failure.New(failure.Busy, "lock %s: held by %s: %w", path, who, err), h.remedy())
}

// open makes the file if it is missing. On a read-only file system an existing
// one can still be locked: processes that have it mounted elsewhere lock the same
// file.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EROFS) {
		if r, rerr := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0); rerr == nil {
			return r, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return f, nil
}

func try(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		default:
			return err
		}
	}
}

// File is the locked file, for a child to inherit or for contents of its own.
// It is open for reading and writing and belongs to the Lock.
func (l *Lock) File() *os.File { return l.f }

// Unlock releases the lock, also for children that inherited it, and closes
// the file. A second call does nothing.
func (l *Lock) Unlock() error {
	if l == nil || l.f == nil {
		return nil
	}
	err := unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	return errors.Join(err, l.Detach())
}

// Detach closes the file without unlocking: processes that inherited the
// descriptor hold the lock from now on, or nobody if there are none.
func (l *Lock) Detach() error {
	if l == nil || l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// noteBytes limits what is read of a note.
const noteBytes = 256

// Note writes the holder of the lock into its file: "holder (pid 12, since …)".
// EROFS if that cannot be written.
func (l *Lock) Note(holder string) error {
	if flags, err := unix.FcntlInt(l.f.Fd(), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fmt.Errorf("note holder of lock %s: %w", l.f.Name(), unix.EROFS)
	}
	text := fmt.Sprintf("%s (pid %d, since %s)\n", holder, os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	if err := l.f.Truncate(0); err != nil {
		return fmt.Errorf("note holder of lock: %w", err)
	}
	if _, err := l.f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("note holder of lock: %w", err)
	}
	return nil
}

// ReadNote returns the first line of the note in path, "" when there is none.
func ReadNote(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, noteBytes))
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

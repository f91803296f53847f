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
//  1. A lock file that others may open is never unlinked while it may be waited
//     for; who unlinks per-holder files does so under another lock.
//  2. Waiting obeys the context. A deadline that passes is failure.Busy and says
//     who holds the lock; a cancelled context stays context.Canceled. A wait that
//     lasts is told of ([Waits]), whatever lock it is for.
//  3. The note in a lock file is courtesy for humans, never truth.
//
// fcntl(2) record locks are not taken: the traditional ones vanish when any
// descriptor of the file is closed anywhere in the process, and those of open
// file descriptions are what VMMs lock their disks with. The two kinds do not see
// each other, so a disk can have both.
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

// Shared waits for a shared lock on path, which it creates 0600 when missing.
func Shared(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_SH, lastPause)
}

// Exclusive waits for an exclusive lock on path, which it creates 0600 when
// missing.
func Exclusive(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_EX, lastPause)
}

// Brief is Exclusive of a lock that everybody holds for instants only.
func Brief(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_EX, instantPause)
}

// TryExclusive takes an exclusive lock or answers ErrLocked at once.
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

// Held reports whether somebody holds path exclusively; false where there is no
// such file. It asks by a shared lock of an instant, so that those who ask do
// not take each other for the holder; whoever takes the lock must be ready to
// wait for them.
func Held(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	err = try(f, unix.LOCK_SH)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	return false, err
}

// HeldAtAll reports whether somebody holds path, exclusively or shared. It asks by an
// exclusive lock of an instant, so those who take one must be ready to wait.
func HeldAtAll(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	err = try(f, unix.LOCK_EX)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	return false, err
}

// HeldAlone is Held of a file that has no other name: by that another could have
// been taken.
func HeldAlone(path string) (bool, error) {
	held, err := Held(path)
	var st unix.Stat_t
	if held && err == nil {
		err = unix.Lstat(path, &st)
	}
	return held && err == nil && st.Nlink == 1, err
}

// ExclusiveExisting waits for an exclusive lock on a file that must exist.
// Processes of several threads give their locks up an instant after they are
// seen to have ended.
func ExclusiveExisting(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_EX, lastPause)
}

// SharedExisting waits for a shared lock on a file that must exist and is not
// written to.
func SharedExisting(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_SH, lastPause)
}

// ExclusiveFolder is Brief of a folder itself: for what is done to it before there
// is any file in it.
func ExclusiveFolder(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, unix.LOCK_EX, instantPause)
}

// Used tells whether somebody holds an exclusive lock on a file: by flock(2), as
// this package does, or by fcntl(2), as VMMs do on the disks they write to.
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

// Unused refuses a file that somebody may be writing to: a copy of it would be
// of no moment. failure.Conflict.
func Unused(path string) error {
	used, err := Used(path)
	if err != nil || !used {
		return err
	}
	return inUse(path)
}

// UnusedFile is Unused of a file that is open; it holds a shared lock from then
// on.
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

// The pause between two tries doubles from the first to the last; it ends
// earlier for locks that are held for instants only.
const (
	firstPause   = 200 * time.Microsecond
	lastPause    = 10 * time.Millisecond
	instantPause = 500 * time.Microsecond
)

// wait polls, because a blocking flock cannot be called off.
func wait(ctx context.Context, path string, how int, longest time.Duration) (*Lock, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	return waitFor(ctx, f, path, how, longest)
}

// waitFor is told of, and a wait for what is held for instants is bounded, as the
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

// poll is a wait whose failure is for waitFor or Pair to explain.
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

// explain says who holds a lock that was not had.
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

// open makes the file where it is missing. On a file system that is mounted
// read-only one that is there can be locked all the same: those who have it mounted
// otherwise lock the same file.
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

// Detach closes the file without unlocking: whoever inherited the descriptor
// holds the lock from now on, and nobody when nobody did.
func (l *Lock) Detach() error {
	if l == nil || l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// noteBytes bounds what is read of a note.
const noteBytes = 256

// Note writes who holds the lock into its file: "holder (pid 12, since …)". EROFS
// where that cannot be written.
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

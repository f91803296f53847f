package chsnap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// Guard is a process that watches this one while a guest is paused for it, and
// resumes the guest if this process cannot: because it died, or because it was
// stopped. This process sends heartbeats; when they stop the guard ends it, first
// by SIGTERM, so that it undoes its own work, and if that does not help by
// SIGKILL. A guest is resumed by the process that paused it, or by another one
// once that is dead: so a process that was stopped can never publish what it read
// of a paused guest that has run since.
//
// The two ends talk over a socket: each beat carries the silence that is
// tolerated, and is echoed. A guard that is gone or does not echo is replaced.
type Guard struct {
	patience patience.Patience
	start    func() (*watcher, error)

	mu       sync.Mutex
	w        *watcher
	quiet    int // beats in a row that were not echoed
	beating  chan struct{}
	finished sync.WaitGroup
}

// watcher is one guard process.
type watcher struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
}

// Beats that either side may miss. The listener counts missed beats by its own
// clock, so that nobody is blamed for time in which the listener itself, or the
// whole host, was not running.
const beatsPerSilence = 10

// Messages between the two ends, each one packet. Any other message from this end
// is a beat: the tolerated silence, formatted by time.Duration.
const (
	released = "released"
	echo     = "watching"
)

// GuardCommand is the command that calls RunGuard. The zero value is none:
// nothing is guarded.
type GuardCommand struct {
	Argv   []string // to which the arguments of RunGuard are added
	Stderr *os.File // where it reports which process it ended; may be nil
}

// GuardOptions of StartGuard.
type GuardOptions struct {
	Command GuardCommand
	Client  *Client
	Staging string // folder that goes with the pause; "" for none
	Unless  string // file; if it exists by then, the VM is not resumed; "" for none
	Owed    string // file; if it is gone by then, the VM was already resumed; "" for none
	RAM     uint64 // bytes that the VMM may still be moving then
}

// StartGuard starts the guard's command. Without one the result guards nothing.
func StartGuard(o GuardOptions) (*Guard, error) {
	argv := o.Command.Argv
	if len(argv) == 0 {
		return &Guard{}, nil
	}
	if o.Client == nil {
		return nil, failure.New(failure.Usage, "a guard needs a Client")
	}
	within := o.Client.patience.Moving(o.RAM)
	args := slices.Concat(argv[1:], []string{o.Client.Socket(), o.Staging, o.Unless, o.Owed, strconv.FormatInt(int64(within), 10)})
	return Watch(o.Client.patience, o.Command.Stderr, func() *exec.Cmd {
		cmd := exec.Command(argv[0], args...)
		cmd.Env = durable.Coverage()
		return cmd
	})
}

// Watch starts a command as a guard of this process: it calls Watched.Abandoned.
// stderr may be nil.
func Watch(p Patience, stderr *os.File, command func() *exec.Cmd) (*Guard, error) {
	g := &Guard{patience: p, start: func() (*watcher, error) {
		cmd := command()
		if stderr != nil {
			cmd.Stderr = stderr
		}
		return startWatcher(cmd)
	}}
	var err error
	g.w, err = g.start()
	return g, err
}

func startWatcher(cmd *exec.Cmd) (*watcher, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start the guard process: %w", err)
	}
	defer theirs.Close()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the guard process: %w", err), ours.Close())
	}
	pidfd := os.NewFile(uintptr(self), "pidfd")
	defer pidfd.Close()
	cmd.ExtraFiles = []*os.File{theirs, pidfd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the guard process: %w", err), ours.Close())
	}
	return &watcher{cmd, ours}, nil
}

// socketPair returns two connected sockets that preserve message boundaries.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	end := os.NewFile(uintptr(fds[0]), "guard")
	defer end.Close()
	theirs = os.NewFile(uintptr(fds[1]), "guard")
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// Arm returns once the guard counts our beats: from here on a guest may be
// paused. failure.Conflict if the guard does not answer. A second call does
// nothing.
func (g *Guard) Arm(ctx context.Context) error {
	if g.w == nil || g.beating != nil {
		return nil
	}
	within := g.patience.Call()
	stop := context.AfterFunc(ctx, func() { g.w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := g.w.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	err := g.w.beat(g.patience.Silence())
	if err == nil {
		_, err = g.w.conn.Read(make([]byte, len(echo)))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return failure.New(failure.Conflict, "the guard process does not answer %s: %w", patience.Within(within), err)
	}
	g.beating = make(chan struct{})
	g.finished.Go(g.beats)
	return nil
}

// beats sends heartbeats to the guard and checks that it lives.
func (g *Guard) beats() {
	tick := time.NewTicker(g.patience.Silence() / beatsPerSilence)
	defer tick.Stop()
	for {
		select {
		case <-g.beating:
			return
		case <-tick.C:
			g.beatOnce()
		}
	}
}

func (g *Guard) beatOnce() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w.echoed() {
		g.quiet = 0
	}
	err := g.w.beat(g.patience.Silence())
	if g.quiet++; err == nil && g.quiet <= 2*beatsPerSilence {
		return
	}
	// If it cannot be started now, the next beat tries again: that the guest is
	// paused unguarded is no reason to lose what is being read.
	g.quiet = 0
	w, err := g.start()
	if err != nil {
		return
	}
	g.w.kill()
	g.w = w
}

func (w *watcher) beat(silence time.Duration) error {
	err := w.send(silence.String())
	if errors.Is(err, unix.EAGAIN) {
		return nil // it does not read: its echoes are missed too
	}
	return err
}

// send does not wait for a guard that does not read: unix.EAGAIN.
func (w *watcher) send(msg string) (err error) {
	return errors.Join(w.control(func(fd int) { err = unix.Send(fd, []byte(msg), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) }), err)
}

// echoed reads the echoes that have arrived.
func (w *watcher) echoed() (any bool) {
	b := make([]byte, len(echo))
	for {
		n := 0
		err := w.control(func(fd int) { n, _, _ = unix.Recvfrom(fd, b, unix.MSG_DONTWAIT) })
		if err != nil || n <= 0 {
			return any
		}
		any = true
	}
}

func (w *watcher) control(f func(fd int)) error {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

func (w *watcher) kill() {
	_ = w.cmd.Process.Kill() // it may have ended
	_ = w.conn.Close()
	_ = w.cmd.Wait()
}

// Release ends the guard: the VM is safe. A guard that does not end by itself is
// killed; its failure is no failure of the guarded work.
func (g *Guard) Release() {
	if g.w == nil {
		return
	}
	if g.beating != nil {
		close(g.beating)
		g.finished.Wait()
	}
	wait := g.patience.Silence()
	if g.w.send(released) != nil {
		wait = 0
	}
	end := time.AfterFunc(wait, func() { _ = g.w.cmd.Process.Kill() })
	_ = g.w.cmd.Wait()
	end.Stop()
	_ = g.w.conn.Close()
	g.w = nil
}

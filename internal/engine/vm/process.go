package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// Identity is vmm.json in the entry of a VM: enough for gc to end the VMM of a
// creation that died, and never another process that reused its pid.
type Identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Socket    string `json:"socket"`
	// Store is the id of the VM's store, PIDNamespace the inode of the namespace
	// in which the pid is valid. Older programs write neither.
	Store        string `json:"store,omitempty"`
	PIDNamespace uint64 `json:"pidNamespace,omitempty"`
}

// Kill ends every VMM of a VM that belongs to this store: the one in vmm.json in
// the VM's entry, if its start time agrees, else all that sit in the entry: one
// that vmm.json does not name was started by a process that died before writing
// the file. VMMs of other stores are left alone. failure.Damaged if vmm.json is
// torn.
func (m *Manager) Kill(ctx context.Context, id string) error {
	_, err := m.endVMMs(ctx, id)
	return err
}

// endVMMs is Kill; it returns how many there were.
func (m *Manager) endVMMs(ctx context.Context, id string) (ended int, err error) {
	e, err := m.run.Look(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		e, err = nil, nil
	}
	if err != nil {
		return 0, err
	}
	if e != nil {
		defer e.Close()
	}
	ended, err = m.endIn(ctx, id, e)
	if e != nil && (e.Mine || e.Mark.Store == "") {
		err = errors.Join(err, keeper.AwaitEnd(ctx, e.Path(""), m.o.Patience.Glance()))
	}
	return ended, err
}

// endIn ends the VMMs of a VM whose entry, which may be nil, is e.
func (m *Manager) endIn(ctx context.Context, id string, e *runfolder.Entry) (ended int, err error) {
	found, torn, err := m.find(ctx, id, e)
	if err != nil {
		return 0, err
	}
	errs := []error{torn}
	for _, p := range found {
		errs = append(errs, signal(ctx, p, unix.SIGKILL, killTimeout))
	}
	return len(found), errors.Join(errs...)
}

// find returns the VMMs of a VM that Kill ends. torn says what is wrong with
// vmm.json in its entry, which may be nil.
func (m *Manager) find(ctx context.Context, id string, e *runfolder.Entry) (found []*Process, torn, err error) {
	if e != nil {
		who, err := readIdentity(e)
		if err == nil && who.Socket != "" && socketOf(who.PID) == who.Socket && m.owns(ctx, id, e, vmm{who.PID, who.Socket}) {
			return []*Process{{PID: who.PID, BootID: bootID(), StartTime: who.StartTime}}, nil, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			torn = err
		}
	}
	all, err := vmms()
	if err != nil {
		return nil, nil, err
	}
	ours, _ := m.sorted(ctx, id, e, all[id])
	for _, v := range ours {
		if start, err := keeper.StartTime(v.pid); err == nil { // else it ended meanwhile
			found = append(found, &Process{PID: v.pid, BootID: bootID(), StartTime: start})
		}
	}
	return found, torn, nil
}

// killTimeout is how long the kernel may take to end a process, which first frees
// its RAM.
const killTimeout = time.Duration(patience.Default)

// signal sends by pidfd, so that a reused pid is never hit, and waits for the
// end.
func signal(ctx context.Context, p *Process, sig unix.Signal, wait time.Duration) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !alive(p) { // checked while the pidfd pins the process
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	if !ended(ctx, p, wait) {
		return failure.New(failure.Conflict, "process %d did not end within %s of %s", p.PID, wait, unix.SignalName(sig))
	}
	return nil
}

// ended waits until a process is gone. The kernel reports it; without a pidfd (no
// descriptors left) it is polled.
func ended(ctx context.Context, p *Process, wait time.Duration) bool {
	const glance = 100 * time.Millisecond // ctx is checked this often
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		fd = -1
	} else {
		defer unix.Close(fd)
	}
	for deadline := time.Now().Add(wait); alive(p); {
		left := min(time.Until(deadline), glance)
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1) // EINTR is another look
		if n > 0 && alive(p) {
			time.Sleep(time.Millisecond) // it has ended and is not gone yet
		}
	}
	return true
}

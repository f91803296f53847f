package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/patience"
	"github.com/cocoonv2/cocoon/internal/runfolder"
	"github.com/cocoonv2/cocoon/network"
)

// Identity is vmm.json in the entry of a VM: enough for gc to end the VMM of a
// creation that died, and never another process that got its pid.
type Identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Socket    string `json:"socket"`
	// Store is the id of the VM's store, PIDNamespace the inode of the namespace in
	// which the pid means something. Older programs write neither.
	Store        string `json:"store,omitempty"`
	PIDNamespace uint64 `json:"pidNamespace,omitempty"`
}

// startTime reads field 22 of /proc/PID/stat, clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	// The first thread may be gone while others still hold sockets and locks.
	if threads, err := strconv.Atoi(f[17]); f[0] == "Z" && (err != nil || threads <= 1) {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// Launch starts the VMM of a VM in a session of its own, in the VM's netns, and
// waits until it answers. extra descriptors are inherited from number 3 on, the
// locks on the seat and the disks after them.
func (m *Manager) Launch(ctx context.Context, rec *Record, args chsnap.Args, extra ...*os.File) (*Process, error) {
	socket := filepath.Join(m.RunDir(rec.ID), fmt.Sprintf("%s%d.sock", apiPrefix, time.Now().UnixNano()%1e6))
	argv, err := commandLine(socket, args)
	if err != nil {
		return nil, err
	}
	entry, err := m.enter(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	if _, err := exec.LookPath(m.o.Binary); err != nil {
		return nil, failure.New(failure.NotFound, "VMM %s: %w", m.o.Binary, err)
	}
	if err := m.clearVsock(rec); err != nil {
		return nil, err
	}
	locks, err := m.takeSeat(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer locks.detach()
	log, err := newLogs(entry)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// umask is of the whole process in Go, so a shell sets it for the child.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `umask 077; exec "$0" "$@"`, m.o.Binary}, argv...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, append(extra, locks.files()...)
	cmd.Env = cleanEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := network.Start(netnsOf(rec), cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", m.o.Binary, err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	p, err := m.await(ctx, rec, entry, cmd.Process.Pid, socket, gone)
	if err != nil {
		cmd.Process.Kill()
		return nil, errors.Join(err, entry.RemoveSockets(hostSockets))
	}
	return p, nil
}

// commandLine is what a VMM with its API at socket is started with.
func commandLine(socket string, args chsnap.Args) ([]string, error) {
	var a chsnap.Args
	a.Options("--api-socket", chsnap.PathOption("path", socket))
	a.Append(args)
	return a.List()
}

// cleanEnv drops what changes the VMM's answers.
func cleanEnv(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "RUST_") && !strings.HasPrefix(e, "COCOON_") {
			out = append(out, e)
		}
	}
	return out
}

// await waits for the first ping and notes who the process is.
func (m *Manager) await(ctx context.Context, rec *Record, entry *runfolder.Entry, pid int, socket string, gone <-chan error) (*Process, error) {
	start, err := startTime(pid)
	if err != nil {
		return nil, m.died(rec.ID, <-gone)
	}
	durable.Step("vm.launched")
	p := &Process{PID: pid, BootID: bootID(), StartTime: start, APISocket: socket}
	b, err := json.Marshal(Identity{pid, start, socket, entry.Mark.Store, pidNamespace()})
	if err != nil {
		return nil, err
	}
	if err := entry.Write(identityDocument, identityFile, b); err != nil {
		return nil, err
	}
	ctx, cancel := patience.Bound(ctx, m.o.Patience.Moving(uint64(rec.MemoryBytes)))
	defer cancel()
	client := chsnap.NewClient(socket, m.o.Patience)
	for {
		ping, err := client.Ping(ctx)
		if err == nil {
			p.Version = ping.Version
			return p, nil
		}
		select {
		case werr := <-gone:
			return nil, m.died(rec.ID, werr)
		case <-ctx.Done():
			return nil, failure.New(failure.Conflict, "the VMM did not answer %s: %w", patience.Passed(ctx), err)
		case <-time.After(time.Millisecond):
		}
	}
}

// died explains a VMM that ended, by the last line of its log.
func (m *Manager) died(id string, err error) error {
	return fmt.Errorf("the VMM ended (%v): %s", err, m.LastLog(id))
}

// Kill ends every VMM of a VM that is this store's: the one that vmm.json in the
// VM's entry names, if its start time agrees, else all that sit in the entry: one
// that vmm.json does not name was started by a process that died before it wrote
// the file. Those of others are left alone. failure.Damaged when vmm.json is torn.
func (m *Manager) Kill(ctx context.Context, id string) error {
	_, err := m.endVMMs(ctx, id)
	return err
}

// endVMMs is Kill; it answers how many there were.
func (m *Manager) endVMMs(ctx context.Context, id string) (ended int, err error) {
	e, err := m.run.Look(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		e, err = nil, nil
	}
	if err != nil {
		return 0, err
	}
	var torn error
	if e != nil {
		defer e.Close()
		who, err := readIdentity(e)
		if err == nil && who.Socket != "" && socketOf(who.PID) == who.Socket && m.owns(ctx, id, e, vmm{who.PID, who.Socket}) {
			return 1, signal(ctx, &Process{PID: who.PID, BootID: bootID(), StartTime: who.StartTime}, unix.SIGKILL, killTimeout)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			torn = err
		}
	}
	all, err := vmms()
	if err != nil {
		return 0, err
	}
	ours, _ := m.sorted(ctx, id, e, all[id])
	errs := []error{torn}
	for _, v := range ours {
		errs = append(errs, v.kill(ctx))
	}
	return len(ours), errors.Join(errs...)
}

func (v vmm) kill(ctx context.Context) error {
	start, err := startTime(v.pid)
	if err != nil {
		return nil // ended meanwhile
	}
	return signal(ctx, &Process{PID: v.pid, BootID: bootID(), StartTime: start}, unix.SIGKILL, killTimeout)
}

// killTimeout is how long the kernel may take to end a process, which gives up
// its RAM first.
const killTimeout = time.Duration(patience.Default)

// signal sends by pidfd, so that a pid which was given to another process is
// never hit, and waits for the end.
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

// ended waits until a process is gone.
func ended(ctx context.Context, p *Process, wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; time.Sleep(2 * time.Millisecond) {
		if !alive(p) {
			return true
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
	}
}

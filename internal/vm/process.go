package vm

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/patience"
	"github.com/cocoonv2/cocoon/network"
)

// Identity is runDir/<id>/vmm.json: enough for gc to end the VMM of a creation
// that died, and never another process that got its pid.
type Identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Socket    string `json:"socket"`
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

// vmmLog is what a VMM prints, in its run folder. It is there before the process
// is.
const vmmLog = "vmm.log"

// Launch starts the VMM of a VM in a session of its own, in the VM's netns, and
// waits until it answers. extra descriptors are inherited from number 3 on, the
// locks on the disks after them.
func (m *Manager) Launch(ctx context.Context, rec *Record, args chsnap.Args, extra ...*os.File) (*Process, error) {
	dir := m.RunDir(rec.ID)
	socket := filepath.Join(dir, fmt.Sprintf("api-%d.sock", time.Now().UnixNano()%1e6)) // one path a process
	argv, err := commandLine(socket, args)
	if err != nil {
		return nil, err
	}
	if err := m.freshRunDir(ctx, dir); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(m.o.Binary); err != nil {
		return nil, failure.New(failure.NotFound, "VMM %s: %w", m.o.Binary, err)
	}
	if err := errors.Join(removeSockets(dir), m.clearVsock(rec)); err != nil {
		return nil, err
	}
	disks, err := m.lockDisks(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer disks.detach()
	log, err := os.OpenFile(filepath.Join(dir, vmmLog), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// umask is of the whole process in Go, so a shell sets it for the child.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `umask 077; exec "$0" "$@"`, m.o.Binary}, argv...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, append(extra, disks.files()...)
	cmd.Env = cleanEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := network.Start(netnsOf(rec), cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", m.o.Binary, err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	p, err := m.await(ctx, rec, cmd.Process.Pid, socket, gone)
	if err != nil {
		cmd.Process.Kill()
		return nil, errors.Join(err, removeSockets(dir))
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

// freshRunDir makes the run folder of a VM. One in which a VMM was started
// before, which has its log since, may have the VMM of a start that was killed
// before it could record it.
func (m *Manager) freshRunDir(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, vmmLog)); errors.Is(err, os.ErrNotExist) {
		return os.MkdirAll(dir, 0o700)
	}
	if err := KillVMM(ctx, dir); err != nil && !errors.Is(err, failure.Damaged) {
		return fmt.Errorf("end the VMM of an earlier start: %w", err)
	}
	return nil
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
func (m *Manager) await(ctx context.Context, rec *Record, pid int, socket string, gone <-chan error) (*Process, error) {
	start, err := startTime(pid)
	if err != nil {
		return nil, m.died(rec.ID, <-gone)
	}
	durable.Step("vm.launched")
	p := &Process{PID: pid, BootID: bootID(), StartTime: start, APISocket: socket}
	b, err := json.Marshal(Identity{pid, start, socket})
	if err != nil {
		return nil, err
	}
	if err := identityFile.Write(filepath.Join(m.RunDir(rec.ID), "vmm.json"), b, 0o600); err != nil {
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

// LastLog is the last line that a VM's VMM printed: the cause of a failure that
// it does not answer in full.
func (m *Manager) LastLog(id string) string {
	b, _ := os.ReadFile(filepath.Join(m.RunDir(id), vmmLog))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

func removeSockets(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, "*.sock*"))
	if err != nil {
		return err
	}
	for _, p := range old {
		if strings.HasPrefix(filepath.Base(p), vsockFile+"_") {
			continue // a program of the host listens there for the guest
		}
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// Kill ends the VMM of a VM, if it is the one we started.
func (m *Manager) Kill(ctx context.Context, id string) error { return KillVMM(ctx, m.RunDir(id)) }

// KillVMM ends the process that vmm.json in a VM's run folder names, if its
// start time and its command line agree, and every VMM whose API socket is in
// the folder: one that vmm.json does not name was started by a process that died
// before it wrote the file. failure.Damaged when vmm.json is torn.
func KillVMM(ctx context.Context, runDir string) error {
	who, err := readIdentity(filepath.Join(runDir, "vmm.json"))
	if err == nil && who.Socket != "" && onSocket(who.PID, who.Socket) {
		return signal(ctx, &Process{PID: who.PID, BootID: bootID(), StartTime: who.StartTime}, unix.SIGKILL, killTimeout)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, killUnnamed(ctx, filepath.Join(runDir, "api-")))
}

var identityFile = durable.Document{Name: "vmm.json", Limit: 64 << 10}

func readIdentity(path string) (Identity, error) {
	var who Identity
	b, err := identityFile.Read(path)
	if err != nil {
		return who, err
	}
	if err := json.Unmarshal(b, &who); err != nil {
		return who, failure.New(failure.Damaged, "%s: %w", path, err)
	}
	return who, nil
}

// onSocket: the process was started with an API socket whose path begins so. A
// process that is gone or a zombie has no command line.
func onSocket(pid int, socket string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	for arg := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.HasPrefix(arg, []byte("path="+socket)) {
			return true
		}
	}
	return false
}

// killUnnamed ends the processes that were started with such a socket.
func killUnnamed(ctx context.Context, socket string) error {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !onSocket(pid, socket) {
			continue
		}
		start, err := startTime(pid)
		if err != nil {
			continue // ended meanwhile
		}
		errs = append(errs, signal(ctx, &Process{PID: pid, BootID: bootID(), StartTime: start}, unix.SIGKILL, killTimeout))
	}
	return errors.Join(errs...)
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

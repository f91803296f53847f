package chsnap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// Guard is the process that resumes a VM when this one dies: it reads a pipe
// whose other end dies with us. One byte says that all is well.
type Guard struct {
	pipe *os.File
	cmd  *exec.Cmd
}

// GuardOptions of StartGuard.
type GuardOptions struct {
	Command []string // argv prefix of the guard command; nil: no guard
	Client  *Client
	Staging string // folder that goes with the pause; "" for none
	Unless  string // file; when it is there by then, the VM is not resumed; "" for none
	Owed    string // file; when it is gone by then, somebody has resumed the VM already; "" for none
}

// startGuard guards a capture. A VM that was paused before needs none.
func startGuard(o CaptureOptions, wasRunning bool) (*Guard, error) {
	if !wasRunning {
		return &Guard{}, nil
	}
	return StartGuard(GuardOptions{Command: o.Guard, Client: o.Client, Staging: o.StagingDir, Owed: o.Owed})
}

// StartGuard runs `guard SOCKET STAGING UNLESS OWED`, which calls RunGuard. Without a
// command the answer guards nothing.
func StartGuard(o GuardOptions) (*Guard, error) {
	if len(o.Command) == 0 {
		return &Guard{}, nil
	}
	cmd := exec.Command(o.Command[0], slices.Concat(o.Command[1:], []string{o.Client.Socket(), o.Staging, o.Unless, o.Owed})...)
	cmd.Env = []string{}
	return Watch(cmd)
}

// Watch starts cmd as a guard of this process: its descriptor 3 is the pipe that
// it gives to Abandoned.
func Watch(cmd *exec.Cmd) (*Guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the guard process: %w", err)
	}
	return &Guard{w, cmd}, nil
}

// Release ends the guard: the VM is in hand.
func (g *Guard) Release() error {
	if g.cmd == nil {
		return nil
	}
	_, err := g.pipe.Write([]byte{1})
	return errors.Join(err, g.pipe.Close(), g.cmd.Wait())
}

// Abandoned waits, in a guard process, for the end of what it guards: true when
// the process at the other end of the pipe died, false when it released the
// guard.
func Abandoned(pipe *os.File) (bool, error) {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	var b [1]byte
	n, err := pipe.Read(b[:])
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("guard: %w", err)
	}
	return n == 0, nil
}

// RunGuard is the body of the guard process; args are the socket, the staging
// folder and the files of GuardOptions.Unless and Owed. When the pipe closes
// without a byte, the VM is resumed, if the files say so, and the staged RAM
// removed.
func RunGuard(args []string, pipe *os.File) error {
	if len(args) != 4 {
		return failure.New(failure.Usage, "the guard takes a socket, a folder and two files")
	}
	abandoned, err := Abandoned(pipe)
	if err != nil || !abandoned {
		return err
	}
	if unless, owed := args[2], args[3]; (unless == "" || !exists(unless)) && (owed == "" || exists(owed)) {
		err = NewClient(args[0], 0).EnsureRunning(context.Background())
	}
	return errors.Join(err, os.RemoveAll(args[1]))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

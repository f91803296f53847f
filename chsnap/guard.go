package chsnap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// guard is the process that resumes the VM when this one dies: it reads a pipe
// whose other end dies with us. One byte says that all is well.
type guard struct {
	pipe *os.File
	cmd  *exec.Cmd
}

// startGuard runs `guard SOCKET STAGING` with the pipe as descriptor 3. A VM
// that was paused before needs none.
func startGuard(o CaptureOptions, wasRunning bool) (*guard, error) {
	if len(o.Guard) == 0 || !wasRunning {
		return &guard{}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(o.Guard[0], append(o.Guard[1:], o.Client.Socket(), o.StagingDir)...)
	cmd.ExtraFiles = []*os.File{r}
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the guard process: %w", err)
	}
	return &guard{w, cmd}, nil
}

func (g *guard) release() error {
	if g.cmd == nil {
		return nil
	}
	_, err := g.pipe.Write([]byte{1})
	return errors.Join(err, g.pipe.Close(), g.cmd.Wait())
}

// RunGuard is the body of the guard process; args are the socket and the
// staging folder. When the pipe closes without a byte, the VM is resumed and
// the staged RAM removed.
func RunGuard(args []string, pipe *os.File) error {
	if len(args) != 2 {
		return failure.New(failure.Usage, "the guard takes a socket and a folder")
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	var b [1]byte
	if n, err := pipe.Read(b[:]); n == 1 {
		return nil
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("guard: %w", err)
	}
	return errors.Join(NewClient(args[0], 0).EnsureRunning(context.Background()), os.RemoveAll(args[1]))
}

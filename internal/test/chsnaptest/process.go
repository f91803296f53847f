package chsnaptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// poll is how often something that cannot be waited for is looked at.
const poll = 2 * time.Millisecond

// process is one running VMM with its API socket and its log.
type process struct {
	*client
	cmd  *exec.Cmd
	log  *bytes.Buffer
	exit chan struct{} // closed when the process was reaped
}

// start runs binary with umask 077, a clean environment and a new socket in dir,
// and returns when vmm.ping answers. It dies with the thread that calls, which
// must outlive it.
func start(ctx context.Context, binary, dir, name string, args ...string) (*process, error) {
	socket := filepath.Join(dir, name+".sock")
	argv := append([]string{"-c", `umask 077; exec "$@"`, "sh", binary, "--api-socket", socket}, args...)
	p := &process{client: newClient(socket), cmd: exec.Command("/bin/sh", argv...), log: &bytes.Buffer{}, exit: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = cleanEnv(os.Environ())
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // whoever tries a VMM may be killed
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	go func() {
		_ = p.cmd.Wait() // the status stays in ProcessState
		close(p.exit)
	}()
	err := p.until(ctx, "API socket", func() bool {
		_, err := p.ping(ctx)
		return err == nil
	})
	if err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// cleanEnv drops what changes error bodies: with backtraces on, the real VMM
// appends a stack to its messages.
func cleanEnv(env []string) []string {
	kept := []string{}
	for _, e := range env {
		if !strings.HasPrefix(e, "RUST_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// until looks at ok until it holds; it fails when the process or ctx ends.
func (p *process) until(ctx context.Context, what string, ok func() bool) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		if ok() {
			return nil
		}
		select {
		case <-p.exit:
			return fmt.Errorf("waiting for %s: the VMM ended: %s", what, strings.TrimSpace(p.log.String()))
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// kill ends the process by SIGKILL, whatever its state, and reaps it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // already gone is fine
	<-p.exit
}

// console reads what a guest printed to its serial port's file.
type console struct{ path string }

// tick is one "tick" line. hasDisk is false for a guest that prints one number.
type tick struct {
	ram, disk uint64
	hasDisk   bool
}

// ticks returns every whole tick line, in order, and every BAD line.
func (c console) ticks() (list []tick, bad []string, err error) {
	b, err := os.ReadFile(c.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading serial output: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	for _, line := range lines[:len(lines)-1] {
		if strings.HasPrefix(line, "BAD") {
			bad = append(bad, line)
		}
		t := tick{}
		switch n, _ := fmt.Sscanf(line, "tick %x %x", &t.ram, &t.disk); n {
		case 1:
			list = append(list, t)
		case 2:
			t.hasDisk = true
			list = append(list, t)
		}
	}
	return list, bad, nil
}

// wait returns the last tick once there are at least n of them.
func (c console) wait(ctx context.Context, p *process, n int) (last tick, err error) {
	err = p.until(ctx, fmt.Sprintf("%d ticks in %s", n, c.path), func() bool {
		list, _, err := c.ticks()
		if err != nil || len(list) < n {
			return false
		}
		last = list[len(list)-1]
		return true
	})
	return last, err
}

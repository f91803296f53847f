package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestASignalEndsAVerbThatIsRead: one that writes to somebody for as long as he
// reads is ended by each of what ends a command, and leaves nothing.
func TestASignalEndsAVerbThatIsRead(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, v := range []struct {
		args []string
		code int // at a signal; a log that is followed ends by one, and has not failed
	}{{[]string{"snapshot", "export", "base", "-o", "-"}, 130}, {[]string{"vm", "logs", "web", "-f"}, 0}} {
		args := v.args
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
			c, stderr := h.read(sig, args)
			for range 20 { // it may be done before it sees the signal
				if v.code == 0 || !c.ProcessState.Success() {
					break
				}
				c, stderr = h.read(sig, args)
			}
			code, says := v.code, ""
			switch {
			case sig == syscall.SIGPIPE:
				code = 130 // and nobody is there to be told
			case code != 0:
				says = "cocoon: interrupted by " + unix.SignalName(sig)
			}
			if said := strings.TrimSpace(stderr.String()); c.ProcessState.ExitCode() != code || said != says {
				t.Errorf("%s of %v: %v, it says %q, want exit code %d, %q", unix.SignalName(sig), args, c.ProcessState, said, code, says)
			}
			t.Logf("%s of %v: %v: %s", unix.SignalName(sig), args, c.ProcessState, stderr)
			h.state("web", "running")
			h.bare()
		}
	}
	h.counts("web")
	h.clean("base")
}

// read runs a command that writes to a pipe, and signals it when it has begun to;
// for SIGPIPE the reader goes.
func (h *host) read(sig syscall.Signal, args []string) (*exec.Cmd, *bytes.Buffer) {
	h.t.Helper()
	c, _, stderr := h.command(args)
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	c.Stdout = w
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil { // from now on it is at it, and then waits for us
		h.t.Fatal(err)
	}
	if sig == syscall.SIGPIPE {
		r.Close()
	} else {
		if err := c.Process.Signal(sig); err != nil {
			h.t.Fatal(err)
		}
		io.Copy(io.Discard, r)
	}
	_ = c.Wait()
	return c, stderr
}

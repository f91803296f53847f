package main

import (
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap/chsnaptest"
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
			c, _, stderr := h.command(args)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			c.Stdout = w
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if _, err := r.Read(make([]byte, 1)); err != nil { // from now on it is at it, and then waits for us
				t.Fatal(err)
			}
			if sig == syscall.SIGPIPE {
				r.Close() // as a reader that goes
			} else {
				if err := c.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, r)
				r.Close()
			}
			_ = c.Wait()
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

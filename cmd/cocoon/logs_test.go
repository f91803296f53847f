package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAGuestsOutputIsRawInAPipeAndReadOnATerminal: what a guest printed may be
// kept byte for byte, and does nothing to the terminal of who looks at it.
func TestAGuestsOutputIsRawInAPipeAndReadOnATerminal(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	id := h.must("vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M")
	const printed = "\x1b[0;32m  OK  \x1b[0mbooted\r\n\x1b]0;T\x07\x1b[2Jlogin: "
	const read = "  OK  booted\n" + `\x1b]0;T\a\x1b[2Jlogin: `
	if err := os.MkdirAll(filepath.Join(h.run, id), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.run, id, "serial.log"), []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.logs(t, nil); got != printed {
		t.Errorf("a pipe got %q, want %q", got, printed)
	}
	if got := onTerminal(t, h); got != read {
		t.Errorf("a terminal got %q, want %q", got, read)
	}
	if got := onTerminal(t, h, "--raw"); got != printed {
		t.Errorf("a terminal with --raw got %q, want %q", got, printed)
	}
}

// logs prints the log of web to a file, or collects it.
func (h *host) logs(t *testing.T, to *os.File, more ...string) string {
	t.Helper()
	c, out, stderr := h.command(append([]string{"vm", "logs", "web"}, more...))
	if to != nil {
		c.Stdout = to
	}
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	return out.String()
}

// onTerminal answers what the log of web writes to a terminal that changes nothing.
func onTerminal(t *testing.T, h *host, more ...string) string {
	t.Helper()
	master, slave := openTerminal(t)
	defer master.Close()
	h.logs(t, slave, more...)
	slave.Close()
	var out bytes.Buffer
	_, _ = io.Copy(&out, master) // EIO once nobody has the other side
	return out.String()
}

// openTerminal makes a terminal in raw mode.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Oflag &^= unix.OPOST
	mode.Lflag &^= unix.ECHO | unix.ICANON
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store/measure"
)

const noise = "0123456789 of a guest that prints as fast as it can"

// noisy boots a guest that prints for ever, in a run folder of so many bytes; loud
// is the host on which a guest does so.
func noisy(t *testing.T, size, logMax string) (h *host, loud *host, v vmRow) {
	t.Helper()
	vmm, real := chsnaptest.VMM(t)
	h = newHost(t, vmm, "COCOON_SERIAL_LOG_MAX="+logMax)
	if err := syscall.Mount("tmpfs", h.run, "tmpfs", 0, "mode=700,size="+size); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(h.run, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	writeNoisyGuest(t, filepath.Join(h.work, "noisy.elf"), noise+"\n")
	same := *h
	loud = &same
	if !real {
		loud.env = append(slices.Clone(h.env), "CHSIM_NOISE="+noise)
	}
	loud.must("vm", "create", "loud", "--kernel", "noisy.elf", "--memory", "64M", "--start")
	return h, loud, h.vm("loud")
}

// printed is how many bytes a guest has printed, kept or not.
func (h *host) printed(v vmRow) int64 {
	h.t.Helper()
	fi, err := os.Stat(filepath.Join(h.run, v.ID, keeper.SerialLog))
	if err != nil {
		h.t.Fatal(err)
	}
	return fi.Size()
}

// TestAGuestThatPrintsForEverFillsNothing: nobody gives a command meanwhile, and
// afterwards another VM starts in the same small run folder, and vm logs has the
// end of what was printed, in whole lines.
func TestAGuestThatPrintsForEverFillsNothing(t *testing.T) {
	t.Parallel()
	h, _, v := noisy(t, "512k", "128K")
	h.until("it has printed more than would fit", func() bool { return h.printed(v) > 640<<10 })
	var df struct{ Logs measure.Occupied }
	if err := json.Unmarshal([]byte(h.must("system", "df", "--format", "json")), &df); err != nil {
		t.Fatal(err)
	}
	if df.Logs.Bytes == 0 || df.Logs.Bytes > 256<<10 || df.Logs.Files != 2 {
		t.Errorf("system df: the logs are %+v", df.Logs)
	}
	h.must("vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start")
	h.counts("web")
	h.must("vm", "pause", "loud")
	h.until("the log is within its bound", func() bool {
		n, _, err := keeper.Occupied(filepath.Join(h.run, v.ID))
		return err == nil && n <= 128<<10+64<<10
	})
	text := h.must("vm", "logs", "loud")
	if bytes.IndexByte([]byte(text), 0) >= 0 {
		t.Error("vm logs prints holes")
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != noise {
			t.Fatalf("line %d of %d: %q", i, len(lines), line)
		}
	}
	if len(text) < 48<<10 || !strings.HasPrefix(noise, lines[len(lines)-1]) {
		t.Errorf("%d bytes are left, the end is %q", len(text), lines[len(lines)-1])
	}
	if last := h.must("vm", "logs", "loud", "-n", "3"); strings.Count(last, "\n") != 2 {
		t.Errorf("vm logs -n 3: %q", last)
	}
}

// TestNoiseLeavesRoomInARunFolderThatIsTooSmall // for the logs that it was promised. No other test runs beside it: what the guest
// prints until its keeper has a turn has to fit.
func TestNoiseLeavesRoomInARunFolderThatIsTooSmall(t *testing.T) {
	h, _, v := noisy(t, "256k", "1M")
	h.until("it has printed more than would fit", func() bool { return h.printed(v) > 512<<10 })
	for range 3 {
		h.must("vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start")
		h.counts("web")
		h.must("vm", "rm", "-f", "web")
	}
}

// TestLogsAreFollowedAcrossTheBound, and across a new start of the VM.
func TestLogsAreFollowedAcrossTheBound(t *testing.T) {
	t.Parallel()
	h, loud, v := noisy(t, "1m", "64K")
	c, _, _ := h.command([]string{"vm", "logs", "-f", "loud"})
	file := filepath.Join(h.work, "followed")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout = out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		fi, err := out.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	h.until("more was followed than is kept", func() bool { return size() > 256<<10 })
	h.must("vm", "stop", "loud", "--timeout", "1ms")
	all, had := h.printed(v), size()
	loud.must("vm", "start", "loud")
	h.until("the new run is followed", func() bool { return size() > had+all })
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was interrupted
	b, err := os.ReadFile(file)
	if err != nil || bytes.IndexByte(b, 0) >= 0 {
		t.Errorf("vm logs -f prints holes, %v", err)
	}
	for line := range strings.Lines(strings.TrimSuffix(string(b), "\n")) {
		// Where the run ended a line may be cut, and where he was late too.
		if line != noise+"\n" && !strings.HasPrefix(noise, strings.TrimSuffix(line, "\n")) && !strings.Contains(line, noise) {
			t.Fatalf("%q", line)
		}
	}
}

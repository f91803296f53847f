package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestEveryKindOfMemoryIsRestored: a guest that something else booted, with
// memory that must not be mapped, is saved and imported; auto streams it, map
// is refused before anything starts, copy works. The VM that comes of it can be
// saved, suspended and restored in place like any other.
func TestEveryKindOfMemoryIsRestored(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	for _, c := range []struct {
		name string
		args []string
		real bool // the simulator does not know the option
	}{
		{"shared", []string{"--memory", "size=64M,shared=on"}, false},
		{"zones", []string{"--memory", "size=0", "--memory-zone", "id=a,size=64M", "id=b,size=32M"}, true},
		{"virtio-mem", []string{"--memory", "size=64M,hotplug_method=virtio-mem,hotplug_size=128M"}, true},
		{"balloon", []string{"--memory", "size=64M", "--balloon", "size=0"}, true},
		{hugePages, []string{"--memory", "size=64M,hugepages=on"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.real && !real {
				t.Skip("the simulator has no such memory")
			}
			if c.name == hugePages {
				reserveHugePages(t, 3*64>>1) // three guests at once; a page is 2 MiB
			}
			h := newHost(t, vmm)
			h.must("snapshot", "import", h.foreign(vmm, c.args), "--name", "base")
			refused, _, stderr := h.command([]string{"vm", "create", "x", "--from-snapshot", "base", "--restore-mode", "map"})
			if err := refused.Run(); refused.ProcessState.ExitCode() != 6 {
				t.Errorf("map: exit code %d (%v), want 6: %s", refused.ProcessState.ExitCode(), err, stderr)
			}
			if plan := h.must("vm", "create", "x", "--from-snapshot", "base", "--dry-run"); !strings.Contains(plan, `"mode": "stream"`) {
				t.Errorf("plan %s, want stream", plan)
			}
			for _, mode := range []string{"auto", "copy"} {
				h.must("vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode)
				h.counts(mode)
			}
			h.clean("base")
			h.must("vm", "rm", "copy", "--force")
			h.comesBack("auto", "")
		})
	}
}

// TestZonesOfAnyNameComeBack: memory that is one private zone keeps the zone's
// name, which the VMM looks for when it restores, and can be mapped; a file that
// it was mapped from stays where it was.
func TestZonesOfAnyNameComeBack(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	for name, file := range map[string]bool{"named": false, "mem0": true, "of-a-file": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm)
			zone := "id=" + name + ",size=64M"
			if file {
				path := filepath.Join(h.work, "zone")
				if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20)); err != nil {
					t.Fatal(err)
				}
				zone += ",file=" + path
			}
			h.must("snapshot", "import", h.foreign(vmm, []string{"--memory", "size=0", "--memory-zone", zone}), "--name", "base")
			if err := os.RemoveAll(filepath.Join(h.work, "zone")); err != nil {
				t.Fatal(err)
			}
			for _, mode := range []string{"map", "stream", "copy"} {
				h.must("vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode)
				h.counts(mode)
			}
			h.comesBack("map", "")
		})
	}
}

// TestSharedMemoryIsNeverStreamedOut: the VMM ends itself when it is asked to,
// and its guest is gone.
func TestSharedMemoryIsNeverStreamedOut(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.must("snapshot", "import", h.foreign(vmm, []string{"--memory", "size=64M,shared=on"}), "--name", "base")
	h.must("vm", "create", "web", "--from-snapshot", "base")
	h.refuses(6, "shared", "snapshot", "create", "web", "never", "--capture", "live")
	c, out, stderr := h.command([]string{"snapshot", "create", "web", "saved", "--dry-run"})
	if err := c.Run(); err != nil || !strings.Contains(out.String(), `"mode": "file"`) || !strings.Contains(stderr.String(), "shared") {
		t.Errorf("a dry run says %s and %s (%v), want file mode and why", out, stderr, err)
	}
	h.counts("web")
}

// TestHugePagesThatAreNotThere are exit 8 in the plan, with the figures: the VMM
// would end, or take what a guest that runs has not touched yet.
func TestHugePagesThatAreNotThere(t *testing.T) {
	vmm, real := chsnaptest.VMM(t)
	if !real {
		t.Skip("the simulator has no huge pages")
	}
	reserveHugePages(t, 64>>1) // of one guest
	h := newHost(t, vmm)
	h.must("snapshot", "import", h.foreign(vmm, []string{"--memory", "size=64M,hugepages=on"}), "--name", "base")
	h.must("vm", "create", "web", "--from-snapshot", "base")
	h.counts("web")
	for _, verb := range [][]string{
		{"vm", "create", "x", "--from-snapshot", "base"},
		{"vm", "create", "x", "--from-snapshot", "base", "--restore-mode", "copy"},
		{"vm", "restore", "web", "base"},
		{"snapshot", "check", "base"},
	} {
		h.refuses(8, "32 huge pages of 2048 KiB are needed", verb...)
	}
	h.refuses(8, "32 huge pages of 2048 KiB are needed", "vm", "create", "x", "--kernel", "guest.elf", "--memory", "size=64M,hugepages", "--start")
	h.must("vm", "create", "cold", "--from-snapshot", "base", "--cold")
	h.refuses(8, "32 huge pages of 2048 KiB are needed", "vm", "start", "cold")
	h.must("vm", "rm", "cold")
	h.bare()
	h.counts("web")
	h.must("vm", "suspend", "web")
	last := h.tick("web")
	h.must("vm", "start", "web")
	h.goesOn("web", last)
	h.clean("base")
}

const hugePages = "huge pages"

// theReserve is one of the whole host: the test that has it is alone with it.
var theReserve sync.Mutex

// reserveHugePages has so many huge pages be free until the test ends, no more:
// the host may have spare ones.
func reserveHugePages(t *testing.T, free int) {
	t.Helper()
	theReserve.Lock()
	t.Cleanup(theReserve.Unlock)
	before, spare := countHugePages(t)
	want := before - spare + free
	if err := setHugePages(want); err != nil {
		t.Skipf("huge pages cannot be reserved: %v", err)
	}
	t.Cleanup(func() {
		if err := setHugePages(before); err != nil {
			t.Error(err)
		}
	})
	mountHugePages(t)
	if got, _ := countHugePages(t); got != want {
		t.Skipf("%d huge pages were wanted, the kernel gave %d", want, got)
	}
}

func setHugePages(n int) error {
	return os.WriteFile("/proc/sys/vm/nr_hugepages", []byte(strconv.Itoa(n)), 0)
}

// countHugePages gives how many the host has, and how many of them a VM could have.
func countHugePages(t *testing.T) (all, spare int) {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "HugePages_") {
			if count[f[0]], err = strconv.Atoi(f[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(count) == 0 {
		t.Skip("no huge pages on this kernel")
	}
	return count["HugePages_Total:"], count["HugePages_Free:"] - count["HugePages_Rsvd:"]
}

// mountHugePages makes the mount whose page size the VMM asks for, where systemd
// has not.
func mountHugePages(t *testing.T) {
	t.Helper()
	const dir = "/dev/hugepages"
	if _, err := os.Stat(dir); err == nil {
		return
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no place for huge pages: %v", err)
	}
	if err := unix.Mount("hugetlbfs", dir, "hugetlbfs", 0, ""); err != nil {
		t.Skipf("huge pages cannot be mounted: %v", errors.Join(err, os.Remove(dir)))
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, 0), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
}

// disksInto copies the disks that a foreign guest was given beside what was saved
// of it.
func (h *host) disksInto(snap string) error {
	found, err := filepath.Glob(filepath.Join(h.work, "foreign-*.raw"))
	for _, path := range found {
		b, rerr := os.ReadFile(path)
		err = errors.Join(err, rerr, os.WriteFile(filepath.Join(snap, filepath.Base(path)), b, 0o600))
	}
	return err
}

// foreign boots a guest without cocoon, saves it into a folder and ends it.
func (h *host) foreign(vmm string, memory []string) string {
	h.t.Helper()
	dir := filepath.Join(h.work, "foreign")
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	kernel, serial, socket := filepath.Join(dir, "guest.elf"), filepath.Join(dir, "serial"), filepath.Join(h.run, "foreign.sock")
	if err := guest.WriteFile(kernel); err != nil {
		h.t.Fatal(err)
	}
	args := append([]string{"--api-socket", "path=" + socket, "--kernel", kernel, "--cmdline", "fill=16", "--serial", "file=" + serial}, memory...)
	for flag, value := range map[string]string{"--cpus": "boot=1,nested=off", "--console": "off"} {
		if !slices.Contains(memory, flag) {
			args = append(args, flag, value)
		}
	}
	c := exec.Command(vmm, args...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.Wait()
		close(ended)
	}()
	defer func() {
		c.Process.Kill()
		<-ended
	}()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		log, _ := os.ReadFile(serial)
		if n, _, ok := guest.LastTick(log); ok && n > 3 {
			break
		}
		select {
		case <-ended:
			h.t.Fatalf("the VMM ended: %s", &said)
		default:
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the guest does not count: %s", log)
		}
	}
	client, ctx := chsnap.NewClient(socket, patience.Patience(time.Minute)), h.t.Context()
	snap := filepath.Join(dir, "snap")
	if err := errors.Join(client.Pause(ctx), os.Mkdir(snap, 0o700), client.Snapshot(ctx, snap, 128<<20), os.Rename(kernel, filepath.Join(snap, "guest.elf")), h.disksInto(snap)); err != nil {
		h.t.Fatal(err)
	}
	return snap
}

package house

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/config"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/guest"
	"github.com/cocoonv2/cocoon/internal/vm"
)

// newHouse works in folders of the test, on the real VMM where it works.
func newHouse(t *testing.T) *House {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	vmm, _ := chsnaptest.VMM(t)
	run, err := os.MkdirTemp("", "cr") // short: socket paths end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	settings, err := config.Load(map[string]string{
		"rootDir": filepath.Join(t.TempDir(), "root"), "runDir": run, "hypervisor": vmm, "cpuArgs": os.Getenv("COCOON_CPU_ARGS"),
	}, func(string) (string, bool) { return "", false }, os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Options{Settings: settings, Create: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		all, err := h.VMs.List(context.Background())
		for _, rec := range all {
			_, gone := h.VMs.Remove(context.Background(), rec.ID, vm.RemoveOptions{Force: true})
			err = errors.Join(err, gone)
		}
		if err = errors.Join(err, os.RemoveAll(run)); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *House) bootGuest(t *testing.T, name string) *vm.Record {
	t.Helper()
	kernel, disk := filepath.Join(t.TempDir(), "guest.elf"), filepath.Join(t.TempDir(), "disk.raw")
	if err := errors.Join(guest.WriteFile(kernel), os.WriteFile(disk, make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	rec, err := h.VMs.Create(t.Context(), vm.CreateSpec{
		Name: name, CPUs: 1, MemoryBytes: 64 << 20, Kernel: kernel, Disks: []vm.DiskSpec{{Path: disk}}, Start: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// serial waits for a tick past a number and answers all that the guest printed.
func (h *House) serial(t *testing.T, id string, past uint32) (log string, last uint32) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(h.VMs.SerialPath(id))
		if bad := guest.Bad(b); len(bad) > 0 {
			t.Fatal(bad[0])
		}
		if ram, disk, ok := guest.LastTick(b); ok && ram > past && ram == disk {
			return string(b), ram
		}
	}
	t.Fatalf("the guest does not count past %d", past)
	return "", 0
}

// TestACallerSavesAndRebuilds knows nothing but the interface.
func TestACallerSavesAndRebuilds(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	rec := h.bootGuest(t, "web")
	_, before := h.serial(t, rec.ID, 3)

	var caller vm.Hypervisor = h
	if err := caller.Snapshot(ctx, "web", "one"); err != nil {
		t.Fatal(err)
	}
	h.serial(t, rec.ID, before+3) // the VM goes on
	if _, err := h.Remove(ctx, "web", vm.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	var again *vm.VM
	again, err := caller.Restore(ctx, "one", "again")
	if err != nil {
		t.Fatal(err)
	}
	if log, _ := h.serial(t, again.ID, before); strings.Contains(log, "BOOT") {
		t.Error("the rebuilt VM has booted")
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{caller.Snapshot(ctx, "nobody", ""), failure.NotFound},
		{caller.Snapshot(ctx, "again", "one"), failure.Conflict},
		{restoreError(caller, "nothing", "x"), failure.NotFound},
		{restoreError(caller, "one", "again"), failure.Conflict},
		{restoreError(caller, "one", "no/name"), failure.Usage},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%v, want class %v", c.err, c.want)
		}
	}
}

func restoreError(h vm.Hypervisor, ref, name string) error {
	_, err := h.Restore(context.Background(), ref, name)
	return err
}

package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

func newManager(t *testing.T) *Manager {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return New(st, image.New(st), Options{RunDir: filepath.Join(t.TempDir(), "run"), CPUArgs: "nested=off"})
}

// TestAColdBootHasEveryArgument that the record knows of.
func TestAColdBootHasEveryArgument(t *testing.T) {
	m := newManager(t)
	kernel, firmware, initramfs, base := digest.FromString("k"), digest.FromString("f"), digest.FromString("i"), digest.FromString("d")
	rec := &Record{
		ID: strings.Repeat("a", 32), CPUs: 4, MemoryBytes: 1 << 30, Cmdline: "console=ttyS0 root=/dev/vda",
		Kernel: &store.ImageRef{Digest: kernel}, Initramfs: &store.ImageRef{Digest: initramfs},
		Disks: []Disk{
			{Index: 0, DeviceID: "_disk0", Serial: "cow0", File: "disk-0.raw"},
			{Index: 1, DeviceID: "_disk3", Serial: "", Image: base}, // whatever the record says of it, others stand on it
		},
		Networks: []Network{
			{"_net0", network.Attachment{Tap: "tap0", MAC: "02:00:00:00:00:01", MTU: 1400}},
			{"_net7", network.Attachment{
				Tap: "tap1", MAC: "02:00:00:00:00:02", QueuePairs: 2, Identity: network.Fresh,
				Guest: &network.Guest{MAC: "02:00:00:00:00:99"},
			}},
		},
		ExtraArgs: []string{"--watchdog"},
	}
	want := []string{
		"--cpus", "boot=4,nested=off", "--memory", "size=1073741824", "--serial", "file=" + m.SerialPath(rec.ID), "--console", "off",
		"--kernel", m.images.Path(kernel), "--initramfs", m.images.Path(initramfs), "--cmdline", "console=ttyS0 root=/dev/vda",
		"--disk", "path=" + m.Dir(rec.ID) + "/disk-0.raw,id=_disk0,image_type=raw,serial=cow0",
		"path=" + m.images.Path(base) + ",id=_disk3,image_type=raw,readonly=on",
		"--net", "id=_net0,tap=tap0,mac=02:00:00:00:00:01,mtu=1400", "id=_net7,tap=tap1,mac=02:00:00:00:00:99,num_queues=4",
		"--watchdog",
	}
	if diff := cmp.Diff(want, listed(t, m.ColdBootArgs(t.Context(), rec))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	rec.Kernel, rec.Initramfs, rec.Cmdline, rec.Firmware = nil, nil, "", &store.ImageRef{Digest: firmware}
	if got := listed(t, m.ColdBootArgs(t.Context(), rec))[8:10]; got[0] != "--firmware" || got[1] != m.images.Path(firmware) {
		t.Errorf("firmware: %q", got)
	}
}

func listed(t *testing.T, a chsnap.Args) []string {
	t.Helper()
	list, err := a.List()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestARecordThatWouldAddArgumentsIsNotBooted, whoever wrote it: the arguments are
// judged again where they are made.
func TestARecordThatWouldAddArgumentsIsNotBooted(t *testing.T) {
	m := newManager(t)
	for name, spoil := range map[string]func(*Record){
		"serial":       func(r *Record) { r.Disks[0].Serial = "x,path=/etc/shadow" },
		"device id":    func(r *Record) { r.Disks[0].DeviceID = "_disk0,path=/etc/shadow" },
		"file":         func(r *Record) { r.Disks[0].File = "disk-0.raw,readonly=on" },
		"interface id": func(r *Record) { r.Networks[0].ID = "_net0,tap=x" },
		"TAP":          func(r *Record) { r.Networks[0].Tap = "tap0,fd=3" },
		"MAC":          func(r *Record) { r.Networks[0].MAC = "02:00:00:00:00:66,vhost_user=on" },
		"MAC inside":   func(r *Record) { r.Networks[0].Guest = &network.Guest{MAC: "x,socket=y"} },
		"command line": func(r *Record) { r.Cmdline = "--api-socket=/x" },
		"processors":   func(r *Record) { r.CPUs = -1 },
	} {
		rec := &Record{
			ID: strings.Repeat("a", 32), CPUs: 1, MemoryBytes: 64 << 20, Kernel: &store.ImageRef{Digest: digest.FromString("k")},
			Disks:    []Disk{{DeviceID: "_disk0", Serial: "cow0", File: "disk-0.raw"}},
			Networks: []Network{{"_net0", network.Attachment{Tap: "tap0", MAC: "02:00:00:00:00:01"}}},
		}
		listed(t, m.ColdBootArgs(t.Context(), rec))
		spoil(rec)
		if _, err := m.Launch(t.Context(), rec, m.ColdBootArgs(t.Context(), rec)); !errors.Is(err, failure.Damaged) && !errors.Is(err, failure.Usage) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(m.o.RunDir); len(left) > 0 {
			t.Errorf("%s: %v left", name, left)
		}
	}
}

// TestAProcessOfAnEarlierBootIsGone although its pid and start time are there
// again.
func TestAProcessOfAnEarlierBootIsGone(t *testing.T) {
	start, err := keeper.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{PID: os.Getpid(), BootID: bootID(), StartTime: start}
	if bootID() == "" || !alive(p) {
		t.Errorf("boot %q: this process is not alive", bootID())
	}
	p.BootID = "00000000-0000-0000-0000-000000000000"
	if alive(p) {
		t.Error("a process of another boot is alive")
	}
	p.BootID, p.StartTime = bootID(), start+1
	if alive(p) {
		t.Error("a process that began at another time is alive")
	}
	m := newManager(t)
	rec := &Record{State: "running", Process: p}
	if m.live(t.Context(), rec); rec.State != "stopped" || rec.Process != nil {
		t.Errorf("a VM without its process is %s", rec.State)
	}
}

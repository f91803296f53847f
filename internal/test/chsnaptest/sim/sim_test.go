package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lab is a machine in this process with a kernel, a disk and a serial file.
type lab struct {
	*machine
	t   *testing.T
	dir string
}

func newLab(t *testing.T, fail string) *lab {
	t.Helper()
	points, err := parseFailpoints(fail)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, size := range map[string]int{"kernel": 1, "disk": 4096} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := &lab{t: t, dir: dir, machine: &machine{
		stdout: &bytes.Buffer{}, exit: func(int) {},
		settings: settings{fill: 1 << 20, tick: time.Millisecond, fail: points},
	}}
	t.Cleanup(func() { _ = l.delete() })
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// config is a VM of the given RAM with a disk.
func (l *lab) config(bytes uint64) string {
	return fmt.Sprintf(`{"payload":{"kernel":%q},"memory":{"size":%d},"disks":[{"path":%q,"image_type":"Raw"}],
		"serial":{"mode":"File","file":%q},"console":{"mode":"Off"}}`, l.path("kernel"), bytes, l.path("disk"), l.path("serial"))
}

// do makes a call that has to answer with want; it returns the body.
func (l *lab) do(want int, call, body string) string {
	l.t.Helper()
	method := endpoints()[call].method
	r := l.call(method, call, []byte(body))
	if r.status != want {
		l.t.Fatalf("%s: status %d %s, want %d", call, r.status, r.body, want)
	}
	return string(r.body)
}

// serial waits until the guest's output contains text and returns it all.
func (l *lab) serial(text string) string {
	l.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		b, err := os.ReadFile(l.path("serial"))
		if err == nil && strings.Contains(string(b), text) {
			return string(b)
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("guest never printed %q: %s (error %v)", text, b, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *lab) boot(bytes uint64) {
	l.t.Helper()
	l.do(204, "vm.create", l.config(bytes))
	l.do(204, "vm.boot", "")
	l.serial("tick 00000002 00000002")
}

// save pauses and snapshots into a new folder.
func (l *lab) save() string {
	l.t.Helper()
	dir := l.path("snapshot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	l.do(204, "vm.pause", "")
	l.do(204, "vm.snapshot", fmt.Sprintf(`{"destination_url":"file://%s"}`, dir))
	return dir
}

func (l *lab) restoreResumed(dir string) {
	l.t.Helper()
	l.do(204, "vm.restore", fmt.Sprintf(`{"source_url":"file://%s","resume":true}`, dir))
}

func TestRAMAbove3GiBIsTwoRangesAndSurvives(t *testing.T) {
	l := newLab(t, "")
	config := strings.Replace(l.config(4<<30), `"memory":{`, `"memory":{"shared":true,`, 1)
	l.do(204, "vm.create", config)
	l.do(204, "vm.boot", "")
	l.serial("tick 00000002 00000002")
	dir := l.save()
	b, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseState(b)
	if err != nil {
		t.Fatal(err)
	}
	want := []memoryRange{{0, 3 << 30}, {4 << 30, 1 << 30}}
	if diff := cmp.Diff(want, s.memory.Ranges.Data); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	if s.memory.DeviceAreaStart != 5<<30 || s.memory.NextMemorySlot != 2 {
		t.Errorf("device area %d, next slot %d", s.memory.DeviceAreaStart, s.memory.NextMemorySlot)
	}
	l.do(204, "vm.delete", "")
	l.restoreResumed(dir)
	if out := l.serial("tick 00000009"); strings.Contains(out, "BAD") || strings.Contains(out, "tick 00000001") {
		t.Errorf("restored guest printed %s", out)
	}
}

func TestGuestReportsDamage(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, l *lab, dir string)
		want  string
	}{
		{"a page of RAM", func(t *testing.T, _ *lab, dir string) {
			writeAt(t, filepath.Join(dir, "memory-ranges"), patternGPA+4*pageSize, "damage")
		}, "BAD page 00000004"},
		{"a zero page of RAM", func(t *testing.T, _ *lab, dir string) {
			writeAt(t, filepath.Join(dir, "memory-ranges"), patternGPA+2*pageSize+99, "x")
		}, "BAD page 00000002"},
		{"memory-ranges cut short", func(t *testing.T, _ *lab, dir string) {
			if err := os.Truncate(filepath.Join(dir, "memory-ranges"), 4096); err != nil {
				t.Fatal(err)
			}
		}, "BAD header"},
		{"a disk of another moment", func(t *testing.T, l *lab, _ string) {
			writeAt(t, l.path("disk"), diskCounterOffset, diskMagic+"\xff\xff\x00\x00\x00\x00\x00\x00")
		}, "BAD disk 0000ffff RAM"},
		{"a renumbered device", func(t *testing.T, _ *lab, dir string) {
			path := filepath.Join(dir, "config.json")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte("_disk0"), []byte("_disk7")), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "BAD device _disk7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, "")
			l.boot(32 << 20)
			dir := l.save()
			l.do(204, "vm.delete", "")
			c.spoil(t, l, dir)
			l.restoreResumed(dir)
			l.serial(c.want)
		})
	}
}

func writeAt(t *testing.T, path string, off int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}

func TestPausedGuestWritesNothing(t *testing.T) {
	l := newLab(t, "")
	l.boot(32 << 20)
	l.do(204, "vm.pause", "")
	ramBefore := bytes.Clone(l.vm.ram.spans[0].mem)
	diskBefore, err := os.ReadFile(l.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * l.settings.tick)
	if !bytes.Equal(ramBefore, l.vm.ram.spans[0].mem) {
		t.Error("RAM changed while paused")
	}
	if diskAfter, err := os.ReadFile(l.path("disk")); err != nil || !bytes.Equal(diskBefore, diskAfter) {
		t.Errorf("disk changed while paused (error %v)", err)
	}
}

func TestFailpoints(t *testing.T) {
	l := newLab(t, "vm.pause=fail#1,vm.resume=late-fail#1,vm.snapshot=enospc#1")
	l.boot(32 << 20)
	if body := l.do(500, "vm.pause", ""); !strings.Contains(body, "injected failure") {
		t.Errorf("pause: %s", body)
	}
	if l.vm.state != stateRunning {
		t.Errorf("fail paused the VM")
	}
	l.do(204, "vm.pause", "")
	l.do(500, "vm.resume", "")
	if l.vm.state != stateRunning {
		t.Errorf("late-fail did not resume the VM")
	}
	l.do(204, "vm.pause", "")
	dir := t.TempDir()
	body := l.do(500, "vm.snapshot", fmt.Sprintf(`{"destination_url":"file://%s"}`, dir))
	if !strings.Contains(body, "No space left on device (os error 28)") {
		t.Errorf("snapshot: %s", body)
	}
	if info, err := os.Stat(filepath.Join(dir, "memory-ranges")); err != nil || info.Size() != 32<<20 {
		t.Errorf("memory-ranges after enospc: %v, %v", info, err)
	}
}

func TestFailpointSyntax(t *testing.T) {
	for _, text := range []string{"vm.pause", "vm.nonsense=fail", "vm.pause=explode", "vm.pause=fail#0", "vm.pause=slow", "vm.pause=fail:1s"} {
		if _, err := parseFailpoints(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	f, err := parseFailpoints("vm.pause=slow:20ms#2, vm.info=die")
	if err != nil {
		t.Fatal(err)
	}
	if f.next("vm.pause").action != "" || f.next("vm.pause").delay != 20*time.Millisecond || f.next("vm.pause").action != "" {
		t.Error("#2 did not mean the second call alone")
	}
}

func TestPowerButtonEndsTheProcess(t *testing.T) {
	l := newLab(t, "")
	var once sync.Once
	ended := make(chan int, 1)
	l.exit = func(code int) { once.Do(func() { ended <- code }) }
	l.boot(32 << 20)
	l.do(204, "vm.power-button", "")
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
	case <-time.After(5 * time.Second):
		t.Error("the guest did not power off")
	}
}

func TestArguments(t *testing.T) {
	o, err := parseArgs([]string{
		"--api-socket", "path=/run/s", "--kernel", "/k", "--cpus", "boot=2,nested=off", "--memory", "size=1G,shared=on",
		"--disk", "path=/a,image_type=raw,serial=cow0", "path=/b,readonly=on", "--net", "tap=t0,mac=02:00:00:00:00:01",
		"--serial", "file=/log", "--console", "off", "-v",
	})
	if err != nil {
		t.Fatal(err)
	}
	c := o.config
	c.nameDevices()
	got := fmt.Sprintln(o.socket, c.CPUs.Max, c.CPUs.Nested, c.Memory.Size, c.Memory.Shared, c.Disks[0].ImageType, c.Disks[0].Serial,
		c.Disks[1].ID, c.Disks[1].Readonly, c.Net[0].ID, c.Net[0].Tap, c.Serial.File, c.Console.Mode)
	want := fmt.Sprintln("/run/s", 2, false, 1<<30, true, "Raw", "cow0", "_disk1", true, "_net2", "t0", "/log", "Off")
	if got != want {
		t.Errorf("parsed %swant %s", got, want)
	}
	for _, bad := range [][]string{{"--bogus"}, {"--kernel"}, {}, {"--kernel", "/k", "--memory", "size=xx"}, {"--restore", "source_url=file:///d", "--kernel", "/k"}} {
		if _, err := parseArgs(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// The configuration of a VM with every device is stored with the same fields in
// the same order as the real VMM writes them.
func TestConfigRoundTrip(t *testing.T) {
	const text = `{"cpus":{"boot_vcpus":1,"max_vcpus":1,"kvm_hyperv":false,"max_phys_bits":46,"features":{"amx":false},"nested":true,"core_scheduling":"Vm","profile":"Host"},"memory":{"size":134217728,"mergeable":false,"hotplug_method":"Acpi","shared":false,"hugepages":false,"prefault":false,"reserve":false,"thp":true},"payload":{"kernel":"/boot/guest.elf"},"disks":[{"id":"_disk0","pci_segment":0,"path":"/disk0.raw","readonly":false,"direct":false,"num_queues":1,"queue_size":128,"vhost_user":false,"disable_io_uring":false,"disable_aio":false,"serial":"cow0","backing_files":false,"sparse":true,"image_type":"Raw","lock_granularity":"ByteRange"}],"net":[{"id":"_net1","pci_segment":0,"tap":"tap0","mac":"02:00:00:00:00:01","host_mac":"62:c3:9c:aa:55:2d","num_queues":2,"queue_size":256,"vhost_user":false,"vhost_mode":"Client","offload_tso":true,"offload_ufo":true,"offload_csum":true}],"rng":{"pci_segment":0,"src":"/dev/urandom"},"balloon":{"pci_segment":0,"size":0,"deflate_on_oom":false,"free_page_reporting":false},"serial":{"file":"/serial.log","mode":"File"},"console":{"mode":"Off","pci_segment":0},"debug_console":{"mode":"Off","iobase":233},"vsock":{"id":"_vsock2","pci_segment":0,"cid":5,"socket":"/vsock.sock"},"pvpanic":false,"iommu":false,"watchdog":true,"landlock_enable":false}`
	c, err := parseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, string(b)); diff != "" {
		t.Errorf("-real +simulator:\n%s", diff)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/registrytest"
)

// machines are guests that something else made, each with what cocoon itself gives
// to none of its own. real: the simulator has nothing of the kind.
func machines(dir string) map[string]struct {
	args []string
	real bool
} {
	raw := func(name string) string {
		return "path=" + filepath.Join(dir, "foreign-"+name+".raw") + ",image_type=raw,id=" + name
	}
	return map[string]struct {
		args []string
		real bool
	}{
		"processors": {args: []string{"--cpus", "boot=2,max=4,nested=off,topology=2:1:2:1,affinity=[0@[0],1@[0-1]]"}},
		"shared":     {args: []string{"--memory", "size=64M,shared=on"}},
		"huge":       {args: []string{"--memory", "size=64M,hugepages=on,hugepage_size=2M"}, real: true},
		"virtio-mem": {args: []string{"--memory", "size=64M,mergeable=on,hotplug_method=virtio-mem,hotplug_size=128M,thp=off"}, real: true},
		"acpi":       {args: []string{"--memory", "size=64M,hotplug_size=128M,prefault=on"}, real: true},
		"zones": {args: []string{
			"--cpus", "boot=2,nested=off", "--memory", "size=0", "--memory-zone", "id=a,size=64M,mergeable=on", "id=b,size=32M",
			"--numa", "guest_numa_id=0,cpus=[0],memory_zones=[a],distances=[1@20]", "guest_numa_id=1,cpus=[1],memory_zones=[b]",
		}, real: true},
		"zone": {args: []string{"--memory", "size=0", "--memory-zone", "id=named,size=64M"}},
		"devices": {args: []string{
			"--balloon", "size=0,deflate_on_oom=on,free_page_reporting=on", "--watchdog", "--pvpanic", "--rtc",
			"--rng", "src=/dev/random", "--console", "null", "--vsock", "cid=7,socket=" + filepath.Join(dir, "foreign.sock"),
		}},
		"platform": {args: []string{
			"--platform", "num_pci_segments=2,uuid=2ea4b0d4-30c9-4f2e-8b2c-0a3f6c1d9e77,serial_number=s1,oem_strings=[a,b]",
			"--pci-segment", "pci_segment=1,mmio32_aperture_weight=2",
		}, real: true},
		"disks": {args: []string{
			"--cpus", "boot=2,nested=off",
			"--rate-limit-group", "id=g,bw_size=1000000,bw_refill_time=100",
			"--disk", raw("one") + ",serial=first,num_queues=2,queue_size=64,rate_limit_group=g,lock_granularity=full",
			raw("two") + ",readonly=on,bw_size=2000000,bw_refill_time=50,ops_size=1000,ops_refill_time=100,sparse=off",
		}, real: true},
		"interfaces": {args: []string{"--cpus", "boot=2,nested=off", "--net", "mac=02:00:00:00:00:31,id=lan,mtu=1400,num_queues=4,queue_size=128,offload_tso=off,offload_ufo=off"}},
	}
}

// hostsOwn are the keys of a configuration that name what one VM process has; a VM
// gets its own at each boot and each restore. Everything else is the machine.
var hostsOwn = map[string][]string{
	"payload": {"kernel", "firmware", "initramfs"},
	"disks":   {"path"},
	"net":     {"tap", "ip", "mask", "host_mac", "fds"},
	"vsock":   {"socket"},
	"serial":  {"file", "socket", "mode"},
	"console": {"file", "socket"},
}

// machineOf takes out of a configuration what is no part of the machine.
func machineOf(config map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range config {
		for _, k := range hostsOwn[key] {
			for _, o := range objects(value) {
				delete(o, k)
			}
		}
		if key != "landlock_enable" && key != "landlock_rules" && value != nil {
			out[key] = value
		}
	}
	return out
}

// objects are the one that a value is, or those of a list.
func objects(value any) []map[string]any {
	switch v := value.(type) {
	case map[string]any:
		return []map[string]any{v}
	case []any:
		var out []map[string]any
		for _, e := range v {
			out = append(out, objects(e)...)
		}
		return out
	}
	return nil
}

// TestAColdBootKeepsTheMachine that was saved, to the last key that the VMM has,
// whatever made it and whatever befell the VM in between.
func TestAColdBootKeepsTheMachine(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	for name, c := range machines("") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.real && !real {
				t.Skip("the simulator has nothing of the kind")
			}
			if name == "huge" {
				reserveHugePages(t, 3*64>>1)
			}
			h := newHost(t, vmm)
			for _, disk := range []string{"one", "two"} {
				if err := os.WriteFile(filepath.Join(h.work, "foreign-"+disk+".raw"), make([]byte, 4<<20), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := machines(h.work)[name].args
			if !slices.Contains(args, "--memory") {
				args = append(args, "--memory", "size=64M")
			}
			folder := h.foreign(vmm, args)
			var saved map[string]any
			if err := json.Unmarshal([]byte(readFile(filepath.Join(folder, "config.json"))), &saved); err != nil {
				t.Fatal(err)
			}
			h.must("snapshot", "import", folder, "--name", "base")
			h.must("vm", "create", "web", "--from-snapshot", "base")
			h.isStill("restored", "web", machineOf(saved))
			h.bootsAs("web", machineOf(saved))
		})
	}
}

// bootsAs holds a VM that runs to being one machine, by each way to a cold boot.
func (h *host) bootsAs(name string, machine map[string]any) {
	h.t.Helper()
	again := func(what string) {
		h.t.Helper()
		h.must("vm", "stop", name, "--timeout", "1s")
		h.must("vm", "start", name)
		h.isStill(what, name, machine)
	}
	again("stopped and started")
	again("a second time")
	h.must("vm", "suspend", name)
	h.must("gc")
	h.must("vm", "start", name)
	h.isStill("woken", name, machine)
	again("after a suspension")
	h.must("snapshot", "create", name, "of-a-cold-boot")
	h.must("vm", "suspend", name)
	h.must("vm", "start", "--cold", name)
	h.isStill("its RAM given up", name, machine)
	h.must("vm", "restore", name, "of-a-cold-boot")
	again("restored in place")
	h.must("vm", "rm", "-f", name)

	archive := filepath.Join(h.work, "archive.tar")
	h.must("snapshot", "export", "of-a-cold-boot", "-o", archive)
	h.must("snapshot", "rm", "of-a-cold-boot")
	h.must("gc")
	h.must("snapshot", "import", archive, "--name", "travelled")
	h.must("vm", "create", name, "--from-snapshot", "travelled", "--cold")
	h.must("vm", "start", name)
	h.isStill("made cold of an archive", name, machine)
	h.clean("travelled")
}

func (h *host) isStill(what, name string, machine map[string]any) {
	h.t.Helper()
	h.counts(name)
	if diff := cmp.Diff(machine, machineOf(h.configuration(name))); diff != "" {
		h.t.Errorf("%s: another machine (-saved +now):\n%s", what, diff)
	}
}

// TestWhatNoVMCanBeRebuiltWithIsSaidOfAColdBoot: its disks can be booted all the
// same, as what the record knows.
func TestWhatNoVMCanBeRebuiltWithIsSaidOfAColdBoot(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "saved")
	layout := filepath.Join(h.work, "layout")
	h.must("snapshot", "export", "saved", "-o", layout, "--format", "oci")
	l, err := registrytest.Load(layout)
	if err == nil {
		err = l.Edit(`config.from_the_future={"path":"/etc/shadow"}`)
	}
	id := ""
	if err == nil {
		id, err = l.Plant(h.root, "{}")
	}
	if err != nil {
		t.Fatal(err)
	}
	h.refuses(6, "from_the_future", "vm", "create", "x", "--from-snapshot", id)
	c, _, stderr := h.command([]string{"vm", "create", "cold", "--from-snapshot", id, "--cold"})
	if err := c.Run(); err != nil || !strings.Contains(stderr.String(), "from_the_future") || !strings.Contains(stderr.String(), "another machine") {
		t.Errorf("%v: %s", err, stderr)
	}
	h.must("vm", "start", "cold")
	h.counts("cold")
}

// TestRecordsOfEarlierProgramsBoot with their arguments, as they did.
func TestRecordsOfEarlierProgramsBoot(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "saved")
	h.must("vm", "create", "clone", "--from-snapshot", "saved")
	h.must("vm", "stop", "clone", "--timeout", "1s")
	path := filepath.Join(h.root, "vms", h.vm("clone").ID, "record.json")
	var rec map[string]any
	if err := json.Unmarshal([]byte(readFile(path)), &rec); err != nil || rec["machine"] == nil {
		t.Fatalf("the record has no machine: %v", err)
	}
	delete(rec, "machine")
	b, err := json.Marshal(rec)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.must("vm", "start", "clone")
	h.counts("clone")
	if argv := fmt.Sprint(h.argv("clone")); !strings.Contains(argv, "--kernel") {
		t.Errorf("it was started as %s", argv)
	}
	h.clean("saved")
}

// killBoots kills the cold boot of a machine: the VM stays stopped, and the next
// start boots it.
func killBoots(h *host) {
	h.boot("web")
	h.must("snapshot", "create", "web", "saved")
	h.must("vm", "create", "clone", "--from-snapshot", "saved", "--cold")
	for _, step := range bootSteps {
		h.killed(step, "vm", "start", "clone")
		h.state("clone", "stopped")
		h.must("vm", "start", "clone")
		h.counts("clone")
		h.must("vm", "stop", "clone", "--timeout", "1s")
		h.clean("saved")
	}
}

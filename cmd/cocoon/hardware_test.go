package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// hardware is what `vm create` has flags for, each with what the VMM then says.
var hardware = map[string]struct {
	flags []string
	want  string // of its configuration, as JSON
}{
	"processors": {[]string{"--cpus", "boot=2,max=4,topology=1:2:1:2"}, `{"cpus":{"boot_vcpus":2,"max_vcpus":4,"topology":{"threads_per_core":1,"cores_per_die":2,"dies_per_package":1,"packages":2}}}`},
	"a number":   {[]string{"--cpus", "2", "--memory", "64M"}, `{"cpus":{"boot_vcpus":2,"max_vcpus":2},"memory":{"size":67108864,"shared":false}}`},
	"shared":     {[]string{"--memory", "size=64M,shared"}, `{"memory":{"size":67108864,"shared":true,"hugepages":false}}`},
	"virtio-mem": {[]string{"--memory", "size=64M,hotplug=128M"}, `{"memory":{"size":67108864,"hotplug_size":134217728,"hotplug_method":"VirtioMem"}}`},
	hugePages:    {[]string{"--memory", "size=64M,hugepages,hugepage-size=2M"}, `{"memory":{"size":67108864,"hugepages":true,"hugepage_size":2097152}}`},
	"vsock":      {[]string{"--vsock"}, `{"vsock":{"cid":3}}`},
	"vsock at":   {[]string{"--vsock=cid=77"}, `{"vsock":{"cid":77}}`},
	"console":    {[]string{"--console", "null"}, `{"console":{"mode":"Null"}}`},
	"balloon":    {[]string{"--balloon"}, `{"balloon":{"size":0}}`},
	"a balloon":  {[]string{"--balloon=size=0,deflate-on-oom,free-page-reporting=on"}, `{"balloon":{"size":0,"deflate_on_oom":true,"free_page_reporting":true}}`},
	"all": {
		[]string{"--cpus", "boot=1,max=2", "--memory", "size=64M,shared=on,hugepages=off", "--vsock", "--console=null", "--balloon"},
		`{"cpus":{"max_vcpus":2},"memory":{"shared":true},"vsock":{"cid":3},"console":{"mode":"Null"},"balloon":{"size":0}}`,
	},
}

// TestHardwareComesBack: a VM is what its flags say, and so is all that is made of
// it: woken, cloned, restored in place and booted again.
func TestHardwareComesBack(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	for name, c := range hardware {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == hugePages {
				if !real {
					t.Skip("the simulator has no huge pages")
				}
				reserveHugePages(t, 3*64>>1)
			}
			h := newHost(t, vmm)
			h.must(hardwareVM("web", c.flags)...)
			h.counts("web")
			machine := machineOf(h.configuration("web"))
			var want map[string]any
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, part(machine, want)); diff != "" {
				t.Errorf("(-flags +VMM):\n%s", diff)
			}
			h.comesBack("web", "")
			h.isStill("a clone that booted", "clone", machine)
			h.must("vm", "stop", "web", "--timeout", "1s")
			h.must("vm", "start", "web")
			h.isStill("booted after a restore in place", "web", machine)
		})
	}
}

// hardwareVM is the command that makes one, with what the flags do not say.
func hardwareVM(name string, flags []string) []string {
	line := []string{"vm", "create", name, "--kernel", "guest.elf", "--cmdline", "fill=8", "--disk", "disk.raw", "--start"}
	if !strings.Contains(strings.Join(flags, " "), "--memory") {
		line = append(line, "--memory", "64M")
	}
	return append(line, flags...)
}

// part is what of a document another one has too.
func part(doc, like map[string]any) map[string]any {
	out := map[string]any{}
	for key, v := range like {
		inner, isObject := v.(map[string]any)
		have, hasObject := doc[key].(map[string]any)
		if isObject && hasObject {
			out[key] = part(have, inner)
		} else if have, ok := doc[key]; ok {
			out[key] = have
		}
	}
	return out
}

// TestHardwareThatCannotBeIsRefused before anything is made, naming what can.
func TestHardwareThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	for _, c := range []struct{ flags, names string }{
		{"--cpus=0", "1 to 254"},
		{"--cpus=many", "boot=N"},
		{"--cpus=max=4", "boot=N is missing"},
		{"--cpus=boot=4,max=2", "4, as many as at boot"},
		{"--cpus=boot=1,max=999", "254"},
		{"--cpus=boot=1,nested=off", "topology=THREADS"},
		{"--cpus=boot=1,boot=2", "boot=N"},
		{"--cpus=boot=2,topology=2:2", "THREADS:CORES:DIES:PACKAGES"},
		{"--cpus=boot=2,topology=1:2:1:2", "make 2 CPUs"},
		{"--memory=shared", "size=SIZE is missing"},
		{"--memory=size=64M,thp", "shared, hugepages"},
		{"--memory=size=64M,shared=maybe", "on or off"},
		{"--memory=size=1M", "at least 32M"},
		{"--memory=size=64M,hugepage-size=2M", "goes with hugepages"},
		{"--memory=size=64M,hugepages,hugepage-size=3M", "a power of two"},
		{"--memory=size=64M,hotplug=1000T", "at most"},
		{"--memory=size=64M,hotplug=1M", "in steps of 2M"},
		{"--vsock=cid=2", "3 to "},
		{"--vsock=socket=/tmp/x", "cid=N"},
		{"--vsock cid=7", "--vsock=cid=7"},
		{"--console=tty", "off or null"},
		{"--balloon=inflate", "deflate-on-oom"},
		{"--balloon=size=4G", "less than memory"},
		{"--ch-arg=--cpus=boot=2", "--cpus boot=2,max=4"},
		{"--ch-arg=--memory=size=1G", "--memory size=1G,shared"},
		{"--ch-arg=--console=tty", "--console null"},
		{"--ch-arg=--serial=tty", "cocoon vm logs"},
		{"--vsock --ch-arg=--vsock=cid=3,socket=/tmp/x", "--vsock"},
		{"--from-snapshot=x --vsock", "comes from the snapshot"},
	} {
		h.refuses(2, c.names, append([]string{"vm", "create", "web", "--kernel", "guest.elf"}, strings.Fields(c.flags)...)...)
	}
	h.must("system", "init")
	h.bare()
	if list := h.must("vm", "list", "-q"); list != "" {
		t.Errorf("made all the same: %s", list)
	}
}

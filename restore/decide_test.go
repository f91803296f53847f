package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/space"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// undecided is a plan of saved.
func undecided(t *testing.T, memory string, khz uint64) *Plan {
	t.Helper()
	return outline(Request{}, saved(t, memory, khz), findings{})
}

// saved is a snapshot of 64 MiB of RAM, 10 of which are stored, and of a thin disk;
// khz is the frequency of its guest's counter.
func saved(t *testing.T, memory string, khz uint64) *subject {
	t.Helper()
	text := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	cpu := text(fmt.Sprintf(`{"Kvm":{"tsc_khz":%d}}`, khz))
	mm := text(`{"memory_ranges":{"data":[{"gpa":0,"length":67108864}]},"guest_ram_mappings":[{"gpa":0,"size":67108864,"zone_id":"mem0"}]}`)
	c, err := chsnap.ParseConfig([]byte(`{"cpus":{"boot_vcpus":1},"memory":{` + memory + `},"payload":{"kernel":"/k"},"disks":[{"id":"_disk0","path":"/d"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := chsnap.ParseState([]byte(`{"snapshots":{"memory-manager":{"snapshot_data":{"state":` + mm + `}},"cpu-manager":{"snapshots":{"0":{"snapshot_data":{"state":` + cpu + `}}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	kernel := store.ImageRef{Digest: digest.FromString("kernel"), Role: "kernel", Bytes: 1}
	disk := vm.Disk{DeviceID: "_disk0", File: "disk-0.raw", Bytes: 50 * gib}
	record, err := json.Marshal(vm.Record{CPUs: 1, MemoryBytes: 64 * mib, Kernel: &kernel, Disks: []vm.Disk{disk}})
	if err != nil {
		t.Fatal(err)
	}
	sn := &store.Snapshot{ID: "5", Spec: store.Spec{
		CPUs: 1, Record: record, Images: []store.ImageRef{kernel}, Memory: []store.MemoryRange{{Bytes: 64 * mib}},
		Hypervisor: store.Hypervisor{Version: "53.0.0"}, Host: store.Host{CPUFlags: []string{"fpu"}},
		Disks: []store.Disk{{DeviceID: spelling.Claimed("_disk0"), Format: spelling.Claimed("raw"), Bytes: 50 * gib}},
	}}
	source, err := vm.Agree(vm.Documents{Spec: &sn.Spec, Config: c, State: s, Own: true})
	if err != nil {
		t.Fatal(err)
	}
	return &subject{snapshot: sn, source: source, config: c, state: s, ram: sized{64 * mib, 10 * mib}, sizes: []sized{{50 * gib, 4096}}}
}

// found is what a host with room for everything says.
func found() findings {
	return findings{room: ramcache.Room{Room: space.Room{Free: gib}}, host: Host{
		VMM:      chsnap.Version{Package: "53.0.0", Build: "v53.0"},
		CPUFlags: []string{"fpu", "sse"}, TSC: TSC{KHz: 2_600_009, PPM: 250},
	}}
}

const plainMemory = `"size":67108864`

// TestRoomIsCountedByWhatIsStored, for each VM and once for all, and what the
// cache gives up for it is in the plan.
func TestRoomIsCountedByWhatIsStored(t *testing.T) {
	for name, c := range map[string]struct {
		r          Request
		cached     bool
		room       ramcache.Room
		mode       Mode
		need, once int64
		frees      int64
		class      error
	}{
		"a thin disk":                         {Request{}, false, ramcache.Room{Room: space.Room{Free: mib}}, Stream, 4096, 0, 0, nil},
		"three of a thin disk":                {Request{Clones: 3}, false, ramcache.Room{Room: space.Room{Free: 11 * mib}}, Map, 4096, 10 * mib, 0, nil},
		"three without room for the file":     {Request{Clones: 3}, false, ramcache.Room{Room: space.Room{Free: mib}}, Stream, 4096, 0, 0, nil},
		"three, asked to map without room":    {Request{Clones: 3, Mode: Map}, false, ramcache.Room{Room: space.Room{Free: mib}}, Map, 4096, 10 * mib, 0, failure.NoSpace},
		"three of a file that is there":       {Request{Clones: 3}, true, ramcache.Room{Room: space.Room{Free: mib}}, Map, 4096, 0, 0, nil},
		"each copy has its RAM":               {Request{Clones: 3, Mode: Copy}, false, ramcache.Room{Room: space.Room{Free: 20 * mib}}, Copy, 10*mib + 4096, 0, 0, failure.NoSpace},
		"one copy":                            {Request{Mode: Copy}, false, ramcache.Room{Room: space.Room{Free: 20 * mib}}, Copy, 10*mib + 4096, 0, 0, nil},
		"the cache gives way":                 {Request{Mode: Map}, false, ramcache.Room{Room: space.Room{Free: mib}, Cached: 20 * mib}, Map, 4096, 10 * mib, 9*mib + 4096, nil},
		"reserves of the dead come first":     {Request{Mode: Map}, false, ramcache.Room{Room: space.Room{Free: mib, Dead: 10 * mib}, Cached: mib}, Map, 4096, 10 * mib, 0, nil},
		"the disks of a VM that is woken":     {Request{ownDisks: true}, false, ramcache.Room{}, Stream, 0, 0, 0, nil},
		"cold":                                {Request{Cold: true}, false, ramcache.Room{Room: space.Room{Free: 4096}}, Cold, 4096, 0, 0, nil},
		"cold without room":                   {Request{Cold: true}, false, ramcache.Room{Room: space.Room{Free: 4095}}, Cold, 4096, 0, 1, failure.NoSpace},
		"no room and nothing that gives way":  {Request{Mode: Stream}, false, ramcache.Room{}, Stream, 4096, 0, 4096, failure.NoSpace},
		"not more than what is missing gives": {Request{Mode: Stream}, false, ramcache.Room{Room: space.Room{Free: 4000}, Cached: gib}, Stream, 4096, 0, 96, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := found()
			p := outline(c.r, saved(t, plainMemory, 0), f)
			f.cached, f.room = c.cached, c.room
			err := p.decide(c.r, f)
			if !errors.Is(err, c.class) || p.Mode != c.mode || p.NeedBytes != c.need || p.SharedBytes != c.once {
				t.Errorf("%v, mode %s (%s), each %d, once %d", err, p.Mode, p.Why, p.NeedBytes, p.SharedBytes)
			}
			if err == nil && p.FreesBytes != c.frees {
				t.Errorf("frees %d, want %d", p.FreesBytes, c.frees)
			}
		})
	}
}

// TestAnotherTSCIsRefusedInEveryMode with one class and both figures; whoever
// tries all the same gets the host's frequency.
func TestAnotherTSCIsRefusedInEveryMode(t *testing.T) {
	for _, mode := range []Mode{Auto, Map, Stream, Copy} {
		p, f := undecided(t, plainMemory, 2_598_288), found()
		err := p.decide(Request{Mode: mode}, f)
		if !errors.Is(err, failure.Incompatible) || !strings.Contains(err.Error(), "2598.288") || !strings.Contains(err.Error(), "2600.009") || failure.HintOf(err) == "" {
			t.Errorf("%s: %v", mode, err)
		}
		p = undecided(t, plainMemory, 2_598_288)
		if err := p.decide(Request{Mode: mode, AllowIncompatible: true}, f); err != nil || !p.dropTSC || len(p.Warnings) != 1 {
			t.Errorf("%s: tried all the same: %v, dropped %v, warnings %q", mode, err, p.dropTSC, p.Warnings)
		}
	}
	for name, c := range map[string]struct {
		khz      uint64
		tsc      TSC
		class    error
		warnings int
	}{
		"the same":                       {2_600_009, TSC{KHz: 2_600_009, PPM: 250}, nil, 0},
		"as near as the kernel takes it": {2_599_400, TSC{KHz: 2_600_009, PPM: 250}, nil, 0},
		"nearer by a module's option":    {2_599_400, TSC{KHz: 2_600_009, PPM: 10}, failure.Incompatible, 0},
		"a host that scales":             {1_000_000, TSC{Scales: true}, nil, 0},
		"a host that does not say":       {1_000_000, TSC{}, nil, 0},
		"a state that does not say":      {0, TSC{KHz: 2_600_009, PPM: 250}, nil, 0},
		"a slower host":                  {2_700_000, TSC{KHz: 2_600_009, PPM: 250}, nil, 1},
	} {
		p, f := undecided(t, plainMemory, c.khz), found()
		f.host.TSC = c.tsc
		if err := p.decide(Request{}, f); !errors.Is(err, c.class) || len(p.Warnings) != c.warnings || p.dropTSC {
			t.Errorf("%s: %v, warnings %q", name, err, p.Warnings)
		}
	}
}

// TestVersionsAreTakenAsTheVMMPromises: from v54 on by a migration, from the two
// before; never backwards; any way at the same major version.
func TestVersionsAreTakenAsTheVMMPromises(t *testing.T) {
	release := func(v string) chsnap.Version { return chsnap.Version{Package: v + ".0", Build: "v" + v} }
	git := chsnap.Version{Package: "54.0.0", Build: "v53.0-246-gae44c2971"}
	for _, c := range []struct {
		made string
		here chsnap.Version
		want []Mode // what works: auto, then those that may be asked for
	}{
		{"53.0.0", release("53.0"), []Mode{Stream, Map, Stream, Copy}},
		{"53.0.0", release("53.1"), []Mode{Stream, Map, Stream, Copy}},
		{"", release("53.0"), []Mode{Stream, Map, Stream, Copy}},
		{"54.0.0", git, []Mode{Stream, Map, Stream, Copy}},
		{"53.0.0", git, []Mode{Stream, Stream}},
		{"52.0.0", git, []Mode{Stream, Stream}},
		{"51.1.0", git, nil},
		{"52.0.0", release("53.0"), nil},
		{"54.0.0", release("53.0"), nil},
		{"54.0.0", release("55.0"), []Mode{Stream, Stream}},
		{"56.0.0", release("55.0"), nil},
	} {
		for _, asked := range []Mode{Auto, Map, Stream, Copy} {
			p, f := undecided(t, plainMemory, 0), found()
			p.snapshot.Spec.Hypervisor.Version, f.host.VMM = c.made, c.here
			err := p.decide(Request{Mode: asked}, f)
			works := asked == Auto && len(c.want) > 0 || len(c.want) > 1 && slices.Contains(c.want[1:], asked)
			if works && (err != nil || asked == Auto && p.Mode != c.want[0]) || !works && !errors.Is(err, failure.Incompatible) {
				t.Errorf("%s into %s, mode %s: %s, %v", c.made, c.here, asked, p.Mode, err)
			}
			p = undecided(t, plainMemory, 0)
			p.snapshot.Spec.Hypervisor.Version = c.made
			if err := p.decide(Request{Mode: asked, AllowIncompatible: true}, f); err != nil {
				t.Errorf("%s into %s, mode %s, tried all the same: %v", c.made, c.here, asked, err)
			}
		}
	}
	p, f := undecided(t, plainMemory, 0), found()
	f.host.VMM = git
	p.snapshot.Spec.Host.VMMBuild, p.snapshot.Spec.Hypervisor.Version = "v55.0-3-gabc", "56.0.0"
	if err := p.decide(Request{}, f); err == nil || !strings.Contains(err.Error(), "56.0.0 (v55.0-3-gabc)") || !strings.Contains(err.Error(), "54.0.0 (v53.0-246-gae44c2971)") {
		t.Errorf("the refusal names neither build: %v", err)
	}
}

// TestHugePagesAreCounted for every VM that is made.
func TestHugePagesAreCounted(t *testing.T) {
	for _, c := range []struct {
		clones     int
		need, free int64
		class      error
	}{{1, 32, 32, nil}, {1, 32, 31, failure.NoSpace}, {3, 32, 95, failure.NoSpace}, {3, 32, 96, nil}} {
		p, f := undecided(t, plainMemory+`,"hugepages":true`, 0), found()
		f.huge = []hugePages{{2 * mib, c.need, c.free}}
		if err := p.decide(Request{Clones: c.clones}, f); !errors.Is(err, c.class) {
			t.Errorf("%d clones of %d pages, %d free: %v", c.clones, c.need, c.free, err)
		}
	}
}

// TestADiskOfAnotherSizeIsTold, and restored.
func TestADiskOfAnotherSizeIsTold(t *testing.T) {
	p := undecided(t, plainMemory, 0)
	p.snapshot.Spec.Disks[0].Bytes = 25 * gib
	if err := p.decide(Request{}, found()); err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "grown") {
		t.Errorf("%v, warnings %q", err, p.Warnings)
	}
}

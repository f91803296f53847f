package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestHardwareIsWhatAVMCanHave: each bound is met from either side.
func TestHardwareIsWhatAVMCanHave(t *testing.T) {
	const ram = 1 << 30
	type what struct {
		h            Hardware
		cpus         int
		ram, hotplug int64
	}
	for name, c := range map[string]struct {
		what
		says string // "" where it is taken
	}{
		"plain":                    {what{Hardware{}, 1, minMemory, 0}, ""},
		"all there is":             {what{Hardware{MaxCPUs: 4, Topology: Topology{2, 2, 1, 1}, Shared: true, HugePages: true, HugePageBytes: 2 << 20, VirtioMem: true, VsockCID: 3, Console: true, Balloon: &Balloon{Bytes: 1 << 20}}, 2, ram, ram}, ""},
		"as many as there can be":  {what{Hardware{}, MaxCPUs, maxMemoryBytes, maxMemoryBytes}, ""},
		"no processor":             {what{Hardware{}, 0, ram, 0}, "0 CPUs"},
		"too many":                 {what{Hardware{}, MaxCPUs + 1, ram, 0}, "255 CPUs"},
		"fewer later than at boot": {what{Hardware{MaxCPUs: 1}, 2, ram, 0}, "at most 1 CPUs"},
		"too many later":           {what{Hardware{MaxCPUs: MaxCPUs + 1}, 2, ram, 0}, "at most 255 CPUs"},
		"a topology of others":     {what{Hardware{Topology: Topology{2, 2, 1, 1}}, 2, ram, 0}, "topology 2:2:1:1"},
		"too little":               {what{Hardware{}, 1, minMemory - 2<<20, 0}, "at least 32M"},
		"an odd size":              {what{Hardware{}, 1, ram + 4096, 0}, "in steps of 2M"},
		"too much":                 {what{Hardware{}, 1, maxMemoryBytes + 2<<20, 0}, "at most"},
		"too much to plug in":      {what{Hardware{}, 1, ram, maxMemoryBytes + 2<<20}, "at most"},
		"an odd size to plug in":   {what{Hardware{}, 1, ram, 4096}, "to plug in"},
		"pages of 3M":              {what{Hardware{HugePageBytes: 3 << 20}, 1, ram, 0}, "huge pages"},
		"pages of 1M":              {what{Hardware{HugePageBytes: 1 << 20}, 1, ram, 0}, "huge pages"},
		"pages that do not fit":    {what{Hardware{HugePageBytes: ram}, 1, ram / 2, 0}, "huge pages"},
		"the host's vsock":         {what{Hardware{VsockCID: 2}, 1, ram, 0}, "vsock cid 2"},
		"anybody's vsock":          {what{Hardware{VsockCID: anyCID}, 1, ram, 0}, "vsock cid"},
		"a balloon of everything":  {what{Hardware{Balloon: &Balloon{Bytes: ram}}, 1, ram, 0}, "balloon"},
	} {
		err := c.h.check(c.cpus, c.ram, c.hotplug)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, failure.Usage) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestHardwareBecomesArguments, and what it gives may not be given twice.
func TestHardwareBecomesArguments(t *testing.T) {
	h := Hardware{
		MaxCPUs: 4, Topology: Topology{2, 2, 1, 1}, Shared: true, HugePages: true, HugePageBytes: 2 << 20, VirtioMem: true, VsockCID: 7, Console: true,
		Balloon: &Balloon{Bytes: 4096, DeflateOnOOM: true, FreePageReporting: true},
	}
	var a chsnap.Args
	a.Options("--cpus", h.cpuOptions()...)
	a.Options("--memory", h.memoryOptions(1<<20)...)
	h.devices(&a, "/run/v.sock")
	want := []string{
		"--cpus", "max=4,topology=2:2:1:1", "--memory", "shared=on,hugepages=on,hugepage_size=2097152,hotplug_method=virtio-mem,hotplug_size=1048576",
		"--console", "null", "--vsock", "cid=7,socket=/run/v.sock", "--balloon", "size=4096,deflate_on_oom=on,free_page_reporting=on",
	}
	if got := listed(t, a); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := h.hugePages(5); len(got) != 1 || got[2<<20] != 5 || (Hardware{}).hugePages(5) != nil {
		t.Errorf("huge pages %v", got)
	}
	for arg, refuses := range map[string][2]bool{ // of a VM with all of it, of a plain one
		"--cpus=2": {true, true}, "--memory": {true, true}, "--serial": {true, true}, "--api-socket=x": {true, true},
		"--vsock=cid=3": {true, false}, "--balloon": {true, false}, "--watchdog": {false, false}, "cpus": {false, false},
	} {
		for i, h := range []Hardware{h, {}} {
			if err := h.checkArgs([]string{"--rng", arg}); errors.Is(err, failure.Usage) != refuses[i] || (err != nil && failure.HintOf(err) == "") {
				t.Errorf("%s, plain %v: %v", arg, i == 1, err)
			}
		}
	}
}

func TestATopologyIsFourNumbers(t *testing.T) {
	for text, want := range map[string]Topology{"1:2:3:4": {1, 2, 3, 4}, "254:1:1:1": {254, 1, 1, 1}} {
		if got, err := ParseTopology(text); err != nil || got != want || got.String() != text {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1:2:3", "1:2:3:4:5", "0:1:1:1", "-1:1:1:1", "255:1:1:1", "a:1:1:1", "1:1:1:"} {
		if got, err := ParseTopology(text); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestHugePagesThatAreNotThereAreRefused before the VMM ends for want of them.
func TestHugePagesThatAreNotThereAreRefused(t *testing.T) {
	_, page, err := FreeHugePages(0)
	if err != nil || page < 2<<20 || page&(page-1) != 0 {
		t.Fatalf("pages of %d bytes, %v", page, err)
	}
	if free, size, err := FreeHugePages(1 << 50); err != nil || free != 0 || size != 1<<50 {
		t.Errorf("of a size that no kernel has: %d free of %d, %v", free, size, err)
	}
	refused(t, "more than any host has", needHugePages(map[uint64]uint64{page: 1 << 55}), failure.NoSpace, "nr_hugepages")
	refused(t, "of a size that no kernel has", needHugePages(map[uint64]uint64{1 << 50: 1}), failure.NoSpace, "1 huge pages")
	must(t, needHugePages(nil))
	b := newBed(t, Options{})
	_, err = b.Create(t.Context(), CreateSpec{Name: "web", CPUs: 1, MemoryBytes: 1 << 40, Kernel: b.kernel, Hardware: Hardware{HugePages: true}, Start: true})
	refused(t, "a VM", err, failure.NoSpace, "huge pages")
}

// TestARoomIsNobodyElses: a confined VMM is told of folders that are ours, and loses
// them with the VM.
func TestARoomIsNobodyElses(t *testing.T) {
	b := newBed(t, Options{Confine: Confined})
	rec := b.create(t, "web", false)
	rooms := b.rooms(t.Context(), rec.ID)
	if len(rooms) != 2 {
		t.Fatalf("rooms %q", rooms)
	}
	must(t, b.removeRooms(t.Context(), rec.ID))
	must(t, os.Mkdir(rooms[1], 0o755)) // as others could have
	if made := b.makeRooms(t.Context(), rec.ID); !slices.Equal(made, rooms[:1]) {
		t.Errorf("rooms %q, want %q", made, rooms[:1])
	}
	must(t, errors.Join(os.Remove(rooms[1]), os.Symlink(t.TempDir(), rooms[1])))
	if isRoom(rooms[1]) {
		t.Error("a link is taken for a room")
	}
	must(t, os.Remove(rooms[1]))
	if made := b.makeRooms(t.Context(), rec.ID); !slices.Equal(made, rooms) {
		t.Errorf("rooms %q, want %q", made, rooms)
	}
	must(t, errors.Join(os.Mkdir(filepath.Join(rooms[1], "left"), 0o700), os.WriteFile(filepath.Join(rooms[1], "left", "ram"), nil, 0o600), ClearRoom(rooms[1])))
	if left, err := os.ReadDir(rooms[1]); err != nil || len(left) > 0 {
		t.Errorf("left in a room that was cleared: %v, %v", left, err)
	}
	args := listed(t, b.ColdBootArgs(t.Context(), &Record{ID: rec.ID, CPUs: 1, MemoryBytes: 1 << 30, Kernel: rec.Kernel, Networks: []Network{{"_net0", loopback}}}))
	for _, want := range []string{"--landlock", "path=" + rooms[0] + ",access=rw", "path=" + rooms[1] + ",access=rw", "path=/sys/class/net/lo,access=r"} {
		if !slices.Contains(args, want) {
			t.Errorf("%q lacks %s", args, want)
		}
	}
	rec.ExtraArgs = []string{"--landlock=off"}
	if b.confines(rec) {
		t.Error("the operator's own word of Landlock does not count")
	}
	if CanConfine() != (b.checkConfine() == nil) {
		t.Errorf("this host can: %v; %v", CanConfine(), b.checkConfine())
	} else if !CanConfine() {
		refused(t, "confined", b.checkConfine(), failure.Incompatible, "vmLandlock to auto")
	}
	_, err := b.Remove(t.Context(), "web", RemoveOptions{})
	must(t, err)
	for _, dir := range rooms {
		if exists(dir) {
			t.Errorf("%s is left", dir)
		}
	}
}

// TestAScopeHasTheBoundsThatAreSet.
func TestAScopeHasTheBoundsThatAreSet(t *testing.T) {
	rec := &Record{ID: fuzzID, Name: "100%", MemoryBytes: 1 << 20, HotplugBytes: 2 << 20}
	scope := func(s Scopes) []string {
		got := (&Manager{o: Options{Scopes: s}}).scope(rec)
		if got == nil {
			return nil
		}
		if got.Must != (s.Kind == Scoped) {
			t.Errorf("%+v: must %v", s, got.Must)
		}
		return got.Argv
	}
	if got := scope(Scopes{}); got != nil {
		t.Errorf("unscoped: %q", got)
	}
	if got := scope(Scopes{Kind: ScopedIfPossible}); (got != nil) != CanScope() {
		t.Errorf("this host can: %v; %q", CanScope(), got)
	}
	got := scope(Scopes{Kind: Scoped, MemoryOverhead: 1 << 20, CPUWeight: 50})
	for _, want := range []string{"--description=cocoon VM 100%%", "--property=MemoryMax=4194304", "--property=CPUWeight=50", "--"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %s", got, want)
		}
	}
	if got := strings.Join(scope(Scopes{Kind: Scoped}), " "); strings.Contains(got, "--property") {
		t.Errorf("nothing is set: %s", got)
	}
}

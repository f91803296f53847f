package vm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Hardware is what a VM made from files has in addition to plain processors and
// RAM, disks and interfaces. The zero value adds nothing. A rebuilt VM has none:
// its machine contains it.
type Hardware struct {
	MaxCPUs       int      `json:"maxCPUs,omitempty"` // including those that can be plugged in; 0: as many as at boot
	Topology      Topology `json:"topology,omitzero"` // of MaxCPUs
	Shared        bool     `json:"shared,omitempty"`  // RAM, with other processes
	HugePages     bool     `json:"hugePages,omitempty"`
	HugePageBytes int64    `json:"hugePageBytes,omitempty"` // 0: as the kernel has them by default
	VirtioMem     bool     `json:"virtioMem,omitempty"`     // HotplugBytes of RAM can be plugged in
	VsockCID      uint32   `json:"vsockCID,omitempty"`      // 0: no vsock device
	Console       bool     `json:"console,omitempty"`       // an unconnected virtio console
	Balloon       *Balloon `json:"balloon,omitempty"`
}

// Topology is how processors are grouped; all zero: not at all.
type Topology struct {
	Threads  int `json:"threads"` // of a core
	Cores    int `json:"cores"`   // of a die
	Dies     int `json:"dies"`    // of a package
	Packages int `json:"packages"`
}

// Balloon is a device that lets a guest give back RAM.
type Balloon struct {
	Bytes             int64 `json:"bytes"` // that it has at boot
	DeflateOnOOM      bool  `json:"deflateOnOOM,omitempty"`
	FreePageReporting bool  `json:"freePageReporting,omitempty"`
}

// hardware of a record, also of one that has none.
func (rec *Record) hardware() Hardware {
	if rec.Hardware == nil {
		return Hardware{}
	}
	return *rec.Hardware
}

// MaxCPUs is the maximum number of virtual processors of a VM.
const MaxCPUs = 254

// check refuses what is impossible for so many processors and so much RAM.
func (h Hardware) check(cpus int, ram, hotplug int64) error {
	bad := func(format string, args ...any) error { return failure.New(failure.Usage, format, args...) }
	most := max(h.MaxCPUs, cpus)
	t := h.Topology
	switch {
	case cpus < 1 || cpus > MaxCPUs:
		return bad("%d CPUs: 1 to %d", cpus, MaxCPUs)
	case h.MaxCPUs != 0 && (h.MaxCPUs < cpus || h.MaxCPUs > MaxCPUs):
		return bad("at most %d CPUs: %d, as many as at boot, to %d", h.MaxCPUs, cpus, MaxCPUs)
	case t != (Topology{}) && t.Threads*t.Cores*t.Dies*t.Packages != most:
		return bad("topology %s: threads × cores × dies × packages make %d CPUs, as many as there can be", t, most)
	case ram < minMemory || ram%(2<<20) != 0:
		return bad("memory of %d bytes: at least 32M, in steps of 2M", ram)
	case ram > maxMemoryBytes || hotplug > maxMemoryBytes:
		return bad("memory of %d bytes and %d to plug in: at most %d each", ram, hotplug, int64(maxMemoryBytes))
	case hotplug%(2<<20) != 0:
		return bad("%d bytes of memory to plug in: in steps of 2M", hotplug)
	case h.HugePageBytes != 0 && (h.HugePageBytes&(h.HugePageBytes-1) != 0 || h.HugePageBytes < 2<<20 || ram%h.HugePageBytes != 0):
		return bad("huge pages of %d bytes: a power of two from 2M on that memory is a multiple of", h.HugePageBytes)
	case h.VsockCID != 0 && (h.VsockCID < minCID || h.VsockCID == anyCID):
		return bad("vsock cid %d: %d to %d", h.VsockCID, minCID, uint32(anyCID-1))
	case h.Balloon != nil && h.Balloon.Bytes >= ram:
		return bad("a balloon of %d bytes: less than memory", h.Balloon.Bytes)
	}
	return nil
}

// Addresses of vsock that are no guest's: hypervisor, local, host; and any.
const (
	minCID = 3
	anyCID = 1<<32 - 1
)

func (t Topology) String() string {
	return fmt.Sprintf("%d:%d:%d:%d", t.Threads, t.Cores, t.Dies, t.Packages)
}

// ParseTopology reads THREADS:CORES:DIES:PACKAGES.
func ParseTopology(s string) (Topology, error) {
	var n [4]int
	f := strings.Split(s, ":")
	ok := len(f) == len(n)
	for i := range min(len(f), len(n)) {
		v, err := strconv.Atoi(f[i])
		ok = ok && err == nil && v >= 1 && v <= MaxCPUs
		n[i] = v
	}
	if !ok {
		return Topology{}, failure.New(failure.Usage, "topology %q: THREADS:CORES:DIES:PACKAGES, each 1 or more", s)
	}
	return Topology{n[0], n[1], n[2], n[3]}, nil
}

// cpuOptions are those of --cpus beside boot=.
func (h Hardware) cpuOptions() (o []chsnap.Option) {
	if h.MaxCPUs > 0 {
		o = append(o, chsnap.NumberOption("max", int64(h.MaxCPUs)))
	}
	if h.Topology != (Topology{}) {
		o = append(o, chsnap.WordOption("topology", h.Topology.String()))
	}
	return o
}

// memoryOptions are those of --memory beside size=.
func (h Hardware) memoryOptions(hotplug int64) (o []chsnap.Option) {
	if h.Shared {
		o = append(o, on("shared"))
	}
	if h.HugePages {
		o = append(o, on("hugepages"))
	}
	if h.HugePageBytes > 0 {
		o = append(o, chsnap.NumberOption("hugepage_size", h.HugePageBytes))
	}
	if h.VirtioMem {
		o = append(o, chsnap.WordOption("hotplug_method", "virtio-mem"), chsnap.NumberOption("hotplug_size", hotplug))
	}
	return o
}

// devices adds the flags of the devices. The socket of a vsock device is the VM's.
func (h Hardware) devices(a *chsnap.Args, socket string) {
	console := "off"
	if h.Console {
		console = "null"
	}
	a.Fixed("--console", console)
	if h.VsockCID != 0 {
		a.Options("--vsock", chsnap.NumberOption("cid", int64(h.VsockCID)), chsnap.PathOption("socket", socket))
	}
	if b := h.Balloon; b != nil {
		o := []chsnap.Option{chsnap.NumberOption("size", b.Bytes)}
		if b.DeflateOnOOM {
			o = append(o, on("deflate_on_oom"))
		}
		if b.FreePageReporting {
			o = append(o, on("free_page_reporting"))
		}
		a.Options("--balloon", o...)
	}
}

func on(key string) chsnap.Option { return chsnap.WordOption(key, "on") }

// hugePages of a VM that boots with arguments, bytes by the size of a page.
func (h Hardware) hugePages(ram int64) map[uint64]uint64 {
	if !h.HugePages {
		return nil
	}
	return map[uint64]uint64{uint64(h.HugePageBytes): uint64(ram)}
}

// ownFlags are arguments that cocoon's own flags give each VM: the VMM accepts
// none of them twice, and its error would go unseen.
var ownFlags = map[string]string{
	"--cpus": "--cpus boot=2,max=4,topology=1:4:1:1", "--memory": "--memory size=1G,shared,hugepages", "--console": "--console null",
	"--kernel": "--kernel", "--firmware": "--firmware", "--initramfs": "--initramfs", "--cmdline": "--cmdline",
	"--serial": "cocoon vm logs", "--api-socket": "cocoon vm inspect",
}

// checkArgs refuses extra arguments that the VM already has.
func (h Hardware) checkArgs(args []string) error {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		instead, own := ownFlags[name]
		switch {
		case name == "--vsock" && h.VsockCID != 0, name == "--balloon" && h.Balloon != nil:
			instead, own = name, true
		}
		if own {
			return failure.Hint(failure.New(failure.Usage, "--ch-arg %s: cocoon sets it itself, and the VMM accepts it once", name), "see "+instead)
		}
	}
	return nil
}

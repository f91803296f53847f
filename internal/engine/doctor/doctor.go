// Package doctor checks whether a host is fit to run, save and rebuild VMs, and
// names the remedy if it is not.
//
// A check examines one thing and changes nothing. Its finding is ok, warn (it
// works, but slower or with less than possible) or fail (something that users
// need will not work), always with what was seen, and with a remedy unless it is
// ok. Checks are independent: all are made, whatever fails.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// Status of a finding.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// Finding is what one check saw.
type Finding struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warn, fail
	Seen   string `json:"seen"`
	Remedy string `json:"remedy,omitempty"`
}

// Host is what is checked.
type Host struct {
	RootDir    string
	CNIConfDir []string
	CNIBinDir  []string
	VMMVersion func(ctx context.Context) (string, error)
	IndexOK    func(ctx context.Context) error // nil if refs.db can be read whole
	// Collection says why gc would refuse to run, and what it keeps for its grace
	// period; nil if there is no store.
	Collection func(ctx context.Context) (lost, doubtful []string, err error)
	// Store is the mark of the store; nil where there is none.
	Store func(ctx context.Context) (owner.Mark, error)
	// Standing lists what lies in the run folder; nil where there is no store.
	Standing func(ctx context.Context) ([]vm.Standing, error)
	// Images counts the image blobs of the store; nil where there is none.
	Images func(ctx context.Context) (image.Guard, error)
	// Unkept are VMs that run without a keeper; nil where there is no store.
	Unkept func(ctx context.Context) ([]string, error)
	// SharedNames are names that several snapshots have, with these; nil where there
	// is no store.
	SharedNames func(ctx context.Context) ([]string, error)
	// Sealing says what new snapshots are encrypted with.
	Sealing func() (*keyring.Key, error)
}

// Examine makes every check, in the order in which a VM would meet them.
func (h Host) Examine(ctx context.Context) []Finding {
	checks := []struct {
		name string
		look func(context.Context) Finding
	}{
		{"kvm", h.device("/dev/kvm", "load the kvm module, or enable nested virtualisation in the host of this machine")},
		{"tun", h.device("/dev/net/tun", "load the tun module: VMs with a network need it")},
		{"hypervisor", h.hypervisor},
		{"landlock", h.landlock},
		{"scopes", h.scopes},
		{"store", h.store},
		{"run folder", h.runFolder},
		{"space", h.space},
		{"reflink", h.reflink},
		{"staging", h.staging},
		{"index", h.index},
		{"names", h.names},
		{"keepers", h.keepers},
		{"collection", h.collection},
		{"encryption", h.encryption},
		{"images", h.images},
		{"cni plugins", h.plugins},
		{"cni networks", h.networks},
		{"forwarding", h.forwarding},
	}
	var all []Finding
	for _, c := range checks {
		f := c.look(ctx)
		f.Name = c.name
		all = append(all, f)
	}
	return all
}

func ok(format string, args ...any) Finding {
	return Finding{Status: OK, Seen: fmt.Sprintf(format, args...)}
}

func warn(remedy, format string, args ...any) Finding {
	return Finding{Status: Warn, Seen: fmt.Sprintf(format, args...), Remedy: remedy}
}

func fail(remedy, format string, args ...any) Finding {
	return Finding{Status: Fail, Seen: fmt.Sprintf(format, args...), Remedy: remedy}
}

func (h Host) device(path, remedy string) func(context.Context) Finding {
	return func(context.Context) Finding {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fail(remedy, "%v", err)
		}
		f.Close()
		return ok("%s can be opened", path)
	}
}

func (h Host) encryption(context.Context) Finding {
	k, err := h.Sealing()
	switch {
	case err != nil:
		return fail(cmp.Or(failure.HintOf(err), "see docs/encryption.md"), "%v", err)
	case k == nil:
		return ok("new snapshots are not encrypted")
	}
	return ok("new snapshots are encrypted with key %s", k.ID())
}

// images shared by VMs deserve an attribute that protects them even from mistakes
// of root, but nothing is wrong without it.
func (h Host) images(ctx context.Context) Finding {
	if h.Images == nil {
		return ok("there is no store yet")
	}
	g, err := h.Images(ctx)
	switch {
	case err != nil:
		return fail("see whether the file system is whole", "%v", err)
	case g.OtherMode > 0:
		return warn(hint.DoctorFix.Of(), "%d of %d image blobs have another mode than 0400", g.OtherMode, g.Blobs)
	case g.Possible && g.Immutable < g.Blobs:
		return ok("%d image blobs, %d of them immutable; "+hint.DoctorFix.Of()+" makes all so", g.Blobs, g.Immutable)
	case g.Possible && g.Blobs > 0:
		return ok("%d image blobs, all immutable until gc removes them", g.Blobs)
	}
	return ok("%d image blobs are read-only", g.Blobs)
}

// oldestSound and oldestLive are major versions of Cloud Hypervisor: the first
// whose snapshots are sound, and the first that can be saved while it runs.
const (
	oldestSound = 51
	oldestLive  = 53
)

func (h Host) hypervisor(ctx context.Context) Finding {
	v, err := h.VMMVersion(ctx)
	if err != nil {
		return fail("install cloud-hypervisor v53.0 or later", "%v", err)
	}
	switch major := chsnap.Major(v); {
	case major < oldestSound:
		return fail("install cloud-hypervisor v53.0 or later", "Cloud Hypervisor %s: its snapshots are not sound", v)
	case major < oldestLive:
		return warn("install cloud-hypervisor v53.0 or later", "Cloud Hypervisor %s: guests are paused while they are saved", v)
	}
	return ok("Cloud Hypervisor %s", v)
}

func (h Host) collection(ctx context.Context) Finding {
	if h.Collection == nil {
		return ok("there is nothing to collect")
	}
	lost, doubtful, err := h.Collection(ctx)
	switch {
	case err != nil:
		return fail("see docs/gc.md: gc removes nothing until then", "%v", err)
	case len(lost) > 0:
		return fail("mount the volume or put back what is missing; else "+hint.PlanCollect.Of()+", then "+hint.Accept.Of(), "vanished, without a command, since the last gc: %s", few(lost))
	case len(doubtful) > 0:
		return warn("put the record back, or let gc remove them after gcGrace", "disks without the record of a VM: %s", few(doubtful))
	}
	return ok("everything known at the last gc is here, or was removed")
}

// few of a list that may be long.
func few(list []string) string {
	const told = 5
	if more := len(list) - told; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:told], ", "), more)
	}
	return strings.Join(list, ", ")
}

func (h Host) store(ctx context.Context) Finding {
	if h.Store == nil {
		return warn(hint.Init.Of()+", or mount its disk", "there is no store; the nearest folder is %s", h.RootDir)
	}
	m, err := h.Store(ctx)
	switch {
	case err != nil:
		return fail("make room, or see what the disk says: VMs cannot be started", "%v", err)
	case m.Store == "":
		return warn("remount it for writing, if VMs are to run", "%s is read-only", h.RootDir)
	}
	return ok("%s", m)
}

func (h Host) runFolder(ctx context.Context) Finding {
	if h.Standing == nil {
		return ok("not checked without a store")
	}
	all, err := h.Standing(ctx)
	if err != nil {
		return fail("see what the error says", "%v", err)
	}
	mine, others, wrong, nobody := 0, map[string]int{}, []string{}, []string{}
	for _, s := range all {
		switch {
		case s.Wrong != nil:
			wrong = append(wrong, s.Wrong.Error())
		case s.Mine || s.Empty:
			mine++
		case s.Owner.Store == "" && len(s.PIDs) > 0:
			others["a store that does not say so"]++
		case s.Owner.Store == "":
			nobody = append(nobody, s.Path)
		default:
			others[s.Owner.String()]++
		}
	}
	seen := fmt.Sprintf("%d entries are of this store", mine)
	for _, who := range slices.Sorted(maps.Keys(others)) {
		seen += fmt.Sprintf(", %d of %s", others[who], who)
	}
	switch {
	case len(wrong) > 0:
		return fail("remove it, if no VM uses it", "%s; %s", seen, strings.Join(wrong, "; "))
	case len(nobody) > 0:
		return warn("rm -r, if no VM uses it; it goes with the next boot", "%s; %s: its owner is unknown (an older program made it)", seen, strings.Join(nobody, ", "))
	}
	return ok("%s", seen)
}

// scarce is when free space is worth a warning: a tenth of the file system.
const scarce = 10

func (h Host) space(context.Context) Finding {
	free, total, err := hostfacts.FreeBytes(h.RootDir)
	if err != nil {
		return fail("make the folder, or set rootDir", "%v", err)
	}
	share := free * 100 / max(total, 1)
	if share < scarce {
		return warn(hint.Collect.Of()+"; "+hint.Prune.Of(), "%d %% of %s is free (%d bytes)", share, h.RootDir, free)
	}
	return ok("%d %% of %s is free", share, h.RootDir)
}

func (h Host) reflink(context.Context) Finding {
	if clone.CanReflink(h.RootDir) {
		return ok("%s clones files", h.RootDir)
	}
	return warn("put rootDir on XFS (reflink=1) or btrfs", "%s cannot clone files: disks are read while guests run and again in the pause", h.RootDir)
}

func (h Host) staging(context.Context) Finding {
	const shm = "/dev/shm"
	if chsnap.PickStaging(0, "") == shm {
		return ok("RAM is staged in %s if it fits", shm)
	}
	return warn("mount a tmpfs there", "%s has no room: captures in file mode and copy restores stage RAM on disk", shm)
}

func (h Host) index(ctx context.Context) Finding {
	if err := h.IndexOK(ctx); err != nil {
		return warn(hint.DoctorFix.Of(), "%v", err)
	}
	return ok("refs.db is readable")
}

func (h Host) landlock(context.Context) Finding {
	if vm.CanConfine() {
		return ok("VMMs can confine themselves (version %d)", vm.LandlockVersion())
	}
	return warn("boot Linux 6.2 or later with lsm=landlock,…", "this kernel has version %d of Landlock: a VMM that is broken into can open every file of the host", vm.LandlockVersion())
}

func (h Host) scopes(context.Context) Finding {
	if vm.CanScope() {
		return ok("systemd gives each VMM its own scope in cocoon.slice")
	}
	return warn("run systemd, or start VMs where the cgroup has bounds and is not ended with a unit",
		"systemd does not run here: VMMs stay in the cgroup of the command that starts them")
}

func (h Host) keepers(ctx context.Context) Finding {
	if h.Unkept == nil {
		return ok("there are no VMs")
	}
	ids, err := h.Unkept(ctx)
	switch {
	case err != nil:
		return warn("see docs/vm.md", "%v", err)
	case len(ids) > 0:
		return warn(hint.DoctorFix.Of()+"; any other command starts them too, or says why it cannot",
			"%d VMs run without a keeper, their logs are not limited: %s", len(ids), strings.Join(ids, ", "))
	}
	return ok("every running VM has its keeper")
}

func (h Host) names(ctx context.Context) Finding {
	if h.SharedNames == nil {
		return ok("there are no snapshots")
	}
	shared, err := h.SharedNames(ctx)
	switch {
	case err != nil:
		return warn(hint.Repair.Of(), "%v", err)
	case len(shared) > 0:
		return warn(hint.Rename.Of("ID", "NAME")+" gives all but one of them another", "names that several snapshots have: %s", strings.Join(shared, "; "))
	}
	return ok("no two snapshots have the same name")
}

func (h Host) plugins(context.Context) Finding {
	for _, dir := range h.CNIBinDir {
		if _, err := os.Stat(filepath.Join(dir, "host-local")); err == nil {
			return ok("plugins are in %s", dir)
		}
	}
	return warn("install containernetworking-plugins, or set cniBinDir", "no plugins in %s", strings.Join(h.CNIBinDir, ", "))
}

func (h Host) networks(context.Context) Finding {
	for _, dir := range h.CNIConfDir {
		if found, _ := filepath.Glob(filepath.Join(dir, "*.conflist")); len(found) > 0 {
			return ok("%d networks in %s", len(found), dir)
		}
	}
	return warn("put a conflist there, or set cniConfDir; see docs/network.md", "no conflist in %s", strings.Join(h.CNIConfDir, ", "))
}

func (h Host) forwarding(context.Context) Finding {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return warn("sysctl net.ipv4.ip_forward=1", "%v", err)
	}
	if strings.TrimSpace(string(b)) == "0" {
		return warn("sysctl net.ipv4.ip_forward=1 (most CNI plugins set it themselves)", "IPv4 is not forwarded: guests reach this host only")
	}
	return ok("IPv4 is forwarded")
}

package chsnap

import (
	"fmt"
	"slices"
)

// MapRefusal says why the RAM cannot be mapped from a file, "" if it can: plain
// private memory, or one zone of it under any id. With a balloon it would work
// (CH v53 only warns), but nothing that the guest gives back would be freed.
func (c *Config) MapRefusal() string {
	m := c.view.Memory
	switch {
	case c.shared():
		return "memory is shared"
	case c.hugePages():
		return "memory is in huge pages"
	case c.hotplugs():
		return "memory can be hot-plugged"
	case len(m.Zones) > 1 || len(m.Zones) == 1 && m.Size != 0:
		return "memory has zones"
	case len(m.Zones) == 1 && m.Zones[0].Node != nil:
		return "memory is bound to a NUMA node"
	case c.view.Balloon != nil:
		return "memory has a balloon, which can give back nothing of a mapped file"
	}
	return ""
}

func (c *Config) shared() bool {
	m := c.view.Memory
	return m.Shared || slices.ContainsFunc(m.Zones, func(z zoneView) bool { return z.Shared })
}

func (c *Config) hugePages() bool {
	m := c.view.Memory
	return m.Hugepages || slices.ContainsFunc(m.Zones, func(z zoneView) bool { return z.Hugepages })
}

func (c *Config) hotplugs() bool {
	m := c.view.Memory
	return m.HotplugSize > 0 || m.Hotplugged > 0 ||
		slices.ContainsFunc(m.Zones, func(z zoneView) bool { return z.HotplugSize > 0 || z.Hotplugged > 0 })
}

// minLiveMajor is the first Cloud Hypervisor that migrates in the background and
// resumes the guest itself when that fails.
const minLiveMajor = 53

// LiveRefusal says why a VM cannot be captured live, "" if it can: what was not
// seen to work is refused before anything is paused. Shared memory was seen to
// fail: the thread that sends it asks for the size of its file by a glibc call
// (newfstatat) that the VMM's own filter answers with SIGSYS, which kills VMM and
// guest. A musl build may not be affected; that cannot be told from outside.
func LiveRefusal(version string, c *Config) string {
	switch {
	case Major(version) < minLiveMajor:
		return fmt.Sprintf("Cloud Hypervisor %s cannot stream a running guest, v%d can", version, minLiveMajor)
	case c.shared():
		return "memory is shared, and the VMM ends itself when it streams it"
	case c.hugePages():
		return "memory is in huge pages"
	case c.hotplugs():
		return "memory can be hot-plugged"
	case len(c.view.Memory.Zones) > 1:
		return "memory has several zones"
	}
	return ""
}

// StreamRefusal says why the RAM cannot be pushed into a VMM, "" if it can: the
// kind of memory does not matter, since the VMM allocates it as at boot, but
// descriptors cannot be passed along.
func (c *Config) StreamRefusal() string {
	for _, n := range c.view.Nets {
		if len(n.FDs) > 0 {
			return "network " + n.ID + " is a descriptor of another process"
		}
	}
	return ""
}

// HugePages returns how many bytes of RAM are in huge pages, by page size; size 0
// is the kernel's default.
func (c *Config) HugePages() map[uint64]uint64 {
	m := c.view.Memory
	out := map[uint64]uint64{}
	if m.Hugepages && m.Size+m.Hotplugged > 0 {
		out[m.HugepageSize] += m.Size + m.Hotplugged
	}
	for _, z := range m.Zones {
		if z.Hugepages {
			out[z.HugepageSize] += z.Size + z.Hotplugged
		}
	}
	return out
}

package chsnap

import (
	"bytes"
	"fmt"
)

// fate says what happens to a key of config.json when a VM is rebuilt.
type fate int

const (
	carried   fate = iota + 1 // kept as saved: it refers to nothing on a host
	rewritten                 // changed by Config.Rewrite: it names what only one VM process has
	refused                   // the VM can neither be saved nor rebuilt
)

// key is one key of an object of config.json. in are the keys of its object, or
// of each object of its list; nil if its value has none.
type key struct {
	fate fate
	in   keys
	why  Problem // of a refused one
}

type keys map[string]key

// configKeys are all keys of config.json that the VMM has, v52 to main, including
// those that only builds with other features write. A key that is not here is
// refused: a snapshot may come from anybody, and an unknown key could open
// devices, files and sockets of this host. A later VMM with more keys fails a
// test (testdata/openapi-*.txt), rather than its users.
var configKeys = keys{
	"cpus": {fate: carried, in: keys{
		"boot_vcpus": is(carried), "max_vcpus": is(carried), "kvm_hyperv": is(carried), "max_phys_bits": is(carried),
		"nested": is(carried), "core_scheduling": is(carried), "profile": is(carried),
		"topology": of(carried, "threads_per_core", "cores_per_die", "dies_per_package", "packages"),
		"affinity": of(carried, "vcpu", "host_cpus"),
		"features": of(carried, "amx"),
	}},
	"memory": {fate: carried, in: keys{
		"size": is(rewritten), "hotplug_size": is(carried), "hotplugged_size": is(carried), "hotplug_method": is(carried),
		"mergeable": is(carried), "shared": is(carried), "hugepages": is(carried), "hugepage_size": is(carried),
		"prefault": is(carried), "reserve": is(carried), "thp": is(carried),
		"zones": {fate: rewritten, in: keys{
			"id": is(carried), "size": is(carried), "file": is(rewritten), "hotplug_size": is(carried), "hotplugged_size": is(carried),
			"mergeable": is(carried), "shared": is(carried), "hugepages": is(carried), "hugepage_size": is(carried),
			"host_numa_node": is(carried), "prefault": is(carried), "reserve": is(carried),
		}},
	}},
	"payload": {fate: carried, in: keys{
		"kernel": is(rewritten), "firmware": is(rewritten), "initramfs": is(rewritten), "cmdline": is(carried),
		"igvm":          no("IGVM payload", "the guest's first memory is encrypted by the processor", "boot from a kernel or a firmware"),
		"host_data":     no("host data of a confidential guest", "the processor keeps its state", "boot without it"),
		"fw_cfg_config": no("fw_cfg device", "it hands files of this host to the guest", "boot without it"),
	}},
	"rate_limit_groups": {fate: carried, in: keys{"id": is(carried), "rate_limiter_config": rateLimit}},
	"disks": {fate: carried, in: pci(keys{
		"path": is(rewritten), "readonly": is(carried), "direct": is(carried), "num_queues": is(carried), "queue_size": is(carried),
		"vhost_user": is(carried), "vhost_socket": is(carried), // false and none: see devices
		"rate_limit_group": is(carried), "rate_limiter_config": rateLimit, "serial": is(carried), "sparse": is(carried),
		"disable_io_uring": is(carried), "disable_aio": is(carried), "queue_affinity": of(carried, "queue_index", "host_cpus"),
		"backing_files": is(carried), "image_type": is(rewritten), "lock_granularity": is(carried),
	})},
	"net": {fate: carried, in: pci(keys{
		"tap": is(rewritten), "ip": is(rewritten), "mask": is(rewritten), "host_mac": is(rewritten), "fds": is(rewritten),
		"mac": is(carried), "mtu": is(carried), "num_queues": is(carried), "queue_size": is(carried),
		"vhost_user": is(carried), "vhost_socket": is(carried), "vhost_mode": is(carried), "rate_limiter_config": rateLimit,
		"offload_tso": is(carried), "offload_ufo": is(carried), "offload_csum": is(carried),
	})},
	"rng":           {fate: carried, in: pci(keys{"src": is(carried)})}, // one of three devices: see devices
	"balloon":       {fate: carried, in: pci(keys{"size": is(carried), "deflate_on_oom": is(carried), "free_page_reporting": is(carried)})},
	"serial":        of(rewritten, "file", "mode", "socket"),
	"console":       {fate: rewritten, in: pci(keys{"file": is(rewritten), "mode": is(rewritten), "socket": is(rewritten)})},
	"debug_console": of(rewritten, "file", "mode", "socket", "iobase"),
	"vsock":         {fate: carried, in: pci(keys{"cid": is(carried), "socket": is(rewritten)})},
	"pvpanic":       is(carried),
	"iommu":         is(carried),
	"watchdog":      is(carried),
	"rtc":           {fate: carried, in: pci(keys{})},
	"gdb":           is(rewritten), // to false: nothing waits at the other end
	"numa": {fate: carried, in: keys{
		"guest_numa_id": is(carried), "cpus": is(carried), "distances": of(carried, "destination", "distance"),
		"memory_zones": is(carried), "pci_segments": is(carried), "device_id": is(carried),
	}},
	"pci_segments": of(carried, "pci_segment", "mmio32_aperture_weight", "mmio64_aperture_weight"),
	"platform": {fate: carried, in: keys{
		"num_pci_segments": is(carried), "iommu_segments": is(carried), "iommu_address_width_bits": is(carried),
		"serial_number": is(carried), "uuid": is(carried), "oem_strings": is(carried), // the first two of before v53
		"system_serial_number": is(carried), "system_uuid": is(carried), "system_manufacturer": is(carried), "system_product_name": is(carried),
		"system_version": is(carried), "system_family": is(carried), "system_sku_number": is(carried), "chassis_asset_tag": is(carried),
		"iommufd": is(carried), "vfio_p2p_dma": is(carried), // both of VFIO devices, of which there are none
		"iommufd_fd": no("iommufd descriptor", "it belongs to another process", "boot without it"),
		"tdx":        no("TDX guest", "the processor keeps its state", "boot it as an ordinary guest"),
		"sev_snp":    no("SEV-SNP guest", "the processor keeps its state", "boot it as an ordinary guest"),
	}},
	"landlock_enable": is(rewritten), // set by this host's configuration
	"landlock_rules":  of(rewritten, "path", "access"),

	"devices":            no("VFIO device", "its state is in the hardware", "detach it before the snapshot"),
	"user_devices":       no("vfio-user device", "its state is in another process", "detach it before the snapshot"),
	"vdpa":               no("vDPA device", "Cloud Hypervisor cannot save it", "detach it before the snapshot"),
	"fs":                 no("virtio-fs", "its state is in another process and a restore hangs", "unmount it in the guest and remove the device"),
	"generic_vhost_user": no("vhost-user device", "its state is in another process", "remove the device"),
	"generic-vhost-user": no("vhost-user device", "its state is in another process", "remove the device"), // as v53 describes it
	"pmem":               no("pmem", "its file is shared with the guest and would not be copied", "use a disk"),
	"tpm":                no("TPM", "its state is in another process", "boot without it"),
	"ivshmem":            no("ivshmem", "its memory is shared with another process", "boot without it"),
	"pvmemcontrol":       no("pvmemcontrol", "what the guest asked of its memory is not saved", "boot without it"),
	"preserved_fds":      no("descriptors of another process", "they are not part of a snapshot", "boot without them"),
}

var rateLimit = key{fate: carried, in: keys{
	"bandwidth": of(carried, "size", "one_time_burst", "refill_time"),
	"ops":       of(carried, "size", "one_time_burst", "refill_time"),
}}

func is(f fate) key { return key{fate: f} }

func of(f fate, names ...string) key {
	in := keys{}
	for _, n := range names {
		in[n] = is(f)
	}
	return key{fate: f, in: in}
}

func no(device, reason, remedy string) key {
	return key{fate: refused, why: Problem{device, reason, remedy}}
}

// pci adds the keys that every PCI device has.
func pci(in keys) keys {
	for _, n := range []string{"id", "iommu", "pci_segment", "pci_device_id"} {
		in[n] = is(carried)
	}
	return in
}

// problems names every key of an object of config.json, and of the objects and
// lists of objects in it, that is refused or unknown. A key with an empty value
// is neither.
func (ks keys) problems(b []byte, path string) ([]Problem, error) {
	all, err := members(b)
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, m := range all {
		value := b[m.start:m.end]
		if isEmptyJSON(value) || bytes.Equal(value, []byte("false")) {
			continue
		}
		k, known := ks[m.key]
		switch {
		case !known:
			out = append(out, unknownKey(path, m.key))
		case k.fate == refused:
			out = append(out, k.why)
		default:
			inner, err := k.inside(value, path, m.key)
			if err != nil {
				return nil, err
			}
			out = append(out, inner...)
		}
	}
	return out, nil
}

// inside looks at the objects in a known key's value.
func (k key) inside(value []byte, path, name string) ([]Problem, error) {
	path += name
	switch value[0] {
	case '{':
		if k.in == nil {
			return []Problem{unknownKey(path+".", "…")}, nil
		}
		return k.in.problems(value, path+".")
	case '[':
		all, err := members(value)
		if err != nil {
			return nil, err
		}
		var out []Problem
		for _, m := range all {
			inner, err := k.inside(value[m.start:m.end], path, "")
			if err != nil {
				return nil, err
			}
			out = append(out, inner...)
		}
		return out, nil
	}
	return nil, nil
}

func unknownKey(path, name string) Problem {
	return Problem{
		Device: fmt.Sprintf("%.80q of the VMM's configuration", path+name),
		Reason: "this program does not know it, and it may name something on the host",
		Remedy: "boot the VM without it",
	}
}

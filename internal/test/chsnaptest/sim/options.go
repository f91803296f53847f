package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// carried are the lists of devices that are not simulated: they only stand in
// the configuration.
func (c *vmConfig) carried() map[string]*json.RawMessage {
	return map[string]*json.RawMessage{
		"--pmem": &c.Pmem, "--fs": &c.FS, "--device": &c.Devices, "--user-device": &c.UserDevices, "--vdpa": &c.VDPA,
		"--numa": &c.NUMA, "--pci-segment": &c.Segments, "--landlock-rules": &c.Rules,
	}
}

// parseRateLimit keeps the name of a group, whose limits are not simulated.
func parseRateLimit(c *vmConfig, value string) error {
	id := ""
	for _, item := range splitCommas(value) {
		if v, ok := strings.CutPrefix(item, "id="); ok {
			id = v
		}
	}
	var err error
	c.RateLimits, err = json.Marshal([]any{map[string]any{"id": id, "rate_limiter_config": map[string]any{}}})
	return err
}

// one stores the options of a device as its object.
func one(dst *json.RawMessage) func(string) error {
	return func(v string) error {
		var err error
		*dst, err = object(v)
		return err
	}
}

// another appends the options of a device to its list.
func another(list *json.RawMessage, value string) error {
	o, err := object(value)
	if err != nil {
		return err
	}
	var all []json.RawMessage
	if len(*list) > 0 {
		if err := json.Unmarshal(*list, &all); err != nil {
			return err
		}
	}
	*list, err = json.Marshal(append(all, o))
	return err
}

// object makes "size=1G,free_page_reporting=on" an object as the real VMM writes
// it: sizes and numbers are numbers, on and off are booleans.
func object(options string) (json.RawMessage, error) {
	m := map[string]any{}
	for _, item := range splitCommas(options) {
		key, value, _ := strings.Cut(item, "=")
		if n, err := parseBytes(value); err == nil {
			m[key] = n
		} else if value == "on" || value == "off" {
			m[key] = value == "on"
		} else {
			m[key] = strings.Trim(value, `"`)
		}
	}
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(m)
	return bytes.TrimSpace(b.Bytes()), err
}

func zoneKeys(z *zoneConfig) map[string]setter {
	return map[string]setter{
		"id": text(&z.ID), "size": bytesValue(&z.Size), "file": text(&z.File), "shared": toggle(&z.Shared),
		"hugepages": toggle(&z.Hugepages), "prefault": toggle(&z.Prefault), "mergeable": toggle(&z.Mergeable),
	}
}

func parseCPUs(c *cpusConfig, value string) error {
	c.Max = 0
	features := ""
	err := setAll(value, map[string]setter{
		"boot": number(&c.Boot), "max": number(&c.Max), "nested": toggle(&c.Nested),
		"max_phys_bits": number(&c.MaxPhysBits), "kvm_hyperv": toggle(&c.HyperV),
		"topology": topology(&c.Topology), "affinity": ignored, "features": text(&features),
	})
	if c.Max == 0 {
		c.Max = c.Boot
	}
	if err == nil && (c.Boot < 1 || c.Max < c.Boot) {
		err = fmt.Errorf("boot CPUs %d, max CPUs %d", c.Boot, c.Max)
	}
	return err
}

// topology reads threads:cores:dies:packages.
func topology(dst *json.RawMessage) setter {
	return func(v string) error {
		var t struct {
			Threads  int `json:"threads_per_core"`
			Cores    int `json:"cores_per_die"`
			Dies     int `json:"dies_per_package"`
			Packages int `json:"packages"`
		}
		if _, err := fmt.Sscanf(v, "%d:%d:%d:%d", &t.Threads, &t.Cores, &t.Dies, &t.Packages); err != nil {
			return err
		}
		var err error
		*dst, err = json.Marshal(t)
		return err
	}
}

// hotplug reads how RAM can be plugged in, which it never is.
func hotplug(dst *string) setter {
	return func(v string) error {
		names := map[string]string{"acpi": "Acpi", "virtio-mem": "VirtioMem"}
		name, ok := names[v]
		if !ok {
			return fmt.Errorf("unknown method %q", v)
		}
		*dst = name
		return nil
	}
}

// given stores a number of bytes that may not be there.
func given(dst **uint64) setter {
	return func(v string) error {
		n, err := parseBytes(v)
		*dst = &n
		return err
	}
}

func parseMemory(m *memoryConfig, value string) error {
	return setAll(value, map[string]setter{
		"hotplug_method": hotplug(&m.HotplugMethod), "hotplug_size": given(&m.HotplugSize), "hugepage_size": given(&m.HugepageSize),
		"size": bytesValue(&m.Size), "shared": toggle(&m.Shared), "mergeable": toggle(&m.Mergeable),
		"hugepages": toggle(&m.Hugepages), "prefault": toggle(&m.Prefault), "thp": toggle(&m.THP),
		"reserve": toggle(&m.Reserve),
	})
}

// parseConsole reads off, null, tty, pty, file=F or socket=F.
func parseConsole(c *consoleConfig, value string) error {
	modes := map[string]string{"off": "Off", "null": "Null", "tty": "Tty", "pty": "Pty", "file": "File", "socket": "Socket"}
	kind, path, _ := strings.Cut(value, "=")
	mode, ok := modes[kind]
	if !ok {
		return fmt.Errorf("unknown console %q", value)
	}
	c.Mode, c.File, c.Socket = mode, "", ""
	switch mode {
	case "File":
		c.File = path
	case "Socket":
		c.Socket = path
	}
	return nil
}

func parseVsock(c *vmConfig, value string) error {
	v, cid := &vsockConfig{}, 0
	err := setAll(value, map[string]setter{"cid": number(&cid), "socket": text(&v.Socket), "id": text(&v.ID)})
	v.CID = uint32(cid)
	c.Vsock = v
	return err
}

func diskKeys(d *diskConfig) map[string]setter {
	return map[string]setter{
		"path": text(&d.Path), "readonly": toggle(&d.Readonly), "serial": text(&d.Serial),
		"image_type": imageType(&d.ImageType), "id": text(&d.ID), "direct": toggle(&d.Direct),
		"num_queues": number(&d.NumQueues), "queue_size": number(&d.QueueSize),
		"sparse": toggle(&d.Sparse), "backing_files": toggle(&d.BackingFiles),
		"pci_segment": number(&d.Segment), "lock_granularity": granularity(&d.LockGranularity),
	}
}

func imageType(dst *string) setter {
	return func(v string) error {
		names := map[string]string{"raw": "Raw", "qcow2": "Qcow2", "vhd": "FixedVhd", "vhdx": "Vhdx"}
		name, ok := names[v]
		if !ok {
			return fmt.Errorf("unknown image type %q", v)
		}
		*dst = name
		return nil
	}
}

func granularity(dst *string) setter {
	return func(v string) error {
		switch v {
		case "byte-range":
			*dst = "ByteRange"
		case "full":
			*dst = "Full"
		default:
			return fmt.Errorf("unknown lock granularity %q", v)
		}
		return nil
	}
}

func netKeys(n *netConfig) map[string]setter {
	return map[string]setter{
		"tap": text(&n.Tap), "mac": text(&n.MAC), "ip": text(&n.IP), "mask": text(&n.Mask),
		"host_mac": text(&n.HostMAC), "id": text(&n.ID), "num_queues": number(&n.NumQueues),
		"queue_size": number(&n.QueueSize), "mtu": func(v string) error {
			mtu := 0
			err := number(&mtu)(v)
			n.MTU = &mtu
			return err
		},
		"offload_tso": toggle(&n.OffloadTSO), "offload_ufo": toggle(&n.OffloadUFO),
		"offload_csum": toggle(&n.OffloadCsum), "pci_segment": number(&n.Segment),
	}
}

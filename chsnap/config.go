package chsnap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// Config is config.json (the VMM's VmConfig), kept as its bytes.
type Config struct {
	raw  []byte
	view configView
}

// configView is what is read of it; everything else is only carried.
type configView struct {
	CPUs struct {
		Boot int `json:"boot_vcpus"`
	} `json:"cpus"`
	Memory  memoryView   `json:"memory"`
	Payload Payload      `json:"payload"`
	Disks   []DiskConfig `json:"disks"`
	Nets    []NetConfig  `json:"net"`
	Balloon *struct{}    `json:"balloon"`
}

type memoryView struct {
	Size        uint64     `json:"size"`
	Shared      bool       `json:"shared"`
	Hugepages   bool       `json:"hugepages"`
	Hotplugged  uint64     `json:"hotplugged_size"`
	HotplugSize uint64     `json:"hotplug_size"`
	Method      string     `json:"hotplug_method"`
	Zones       []zoneView `json:"zones"`
}

type zoneView struct {
	ID        string `json:"id"`
	Size      uint64 `json:"size"`
	File      string `json:"file"`
	Shared    bool   `json:"shared"`
	Hugepages bool   `json:"hugepages"`
}

// Payload is what the VM boots from.
type Payload struct {
	Kernel    string `json:"kernel"`
	Firmware  string `json:"firmware"`
	Initramfs string `json:"initramfs"`
	Cmdline   string `json:"cmdline"`
}

// DiskConfig is one virtio-blk disk.
type DiskConfig struct {
	ID        string `json:"id"`
	Path      string `json:"path"`
	Readonly  bool   `json:"readonly"`
	Serial    string `json:"serial"`
	ImageType string `json:"image_type"`
	VhostUser bool   `json:"vhost_user"`
}

// NetConfig is one virtio-net interface.
type NetConfig struct {
	ID        string `json:"id"`
	Tap       string `json:"tap"`
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu"`        // bytes, 0 when the VMM was told none
	Queues    int    `json:"num_queues"` // two for a pair
	VhostUser bool   `json:"vhost_user"`
	FDs       []int  `json:"fds"`
}

// ParseConfig reads config.json, or the config of vm.info.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > documentLimit {
		return nil, failure.New(failure.Damaged, "config of %d bytes", len(b))
	}
	c := &Config{raw: bytes.Clone(b)}
	return c, c.read()
}

func (c *Config) read() error {
	c.view = configView{}
	if err := json.Unmarshal(c.raw, &c.view); err != nil {
		return failure.New(failure.Damaged, "config: %w", err)
	}
	if _, err := members(c.raw); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, d := range c.view.Disks {
		if d.ID != "" && seen[d.ID] {
			return failure.New(failure.Damaged, "config: two disks %s", d.ID)
		}
		seen[d.ID] = true
	}
	return nil
}

// Bytes is the document; unchanged, it is byte for byte what was parsed.
func (c *Config) Bytes() []byte { return bytes.Clone(c.raw) }

// CPUs at boot.
func (c *Config) CPUs() int { return c.view.CPUs.Boot }

// MemoryBytes is the guest's RAM, zones included.
func (c *Config) MemoryBytes() uint64 {
	sum := c.view.Memory.Size + c.view.Memory.Hotplugged
	for _, z := range c.view.Memory.Zones {
		sum += z.Size
	}
	return sum
}

// Payload of the VM.
func (c *Config) Payload() Payload { return c.view.Payload }

// Disks in order.
func (c *Config) Disks() []DiskConfig { return slices.Clone(c.view.Disks) }

// Nets in order.
func (c *Config) Nets() []NetConfig { return slices.Clone(c.view.Nets) }

// Problem is one reason why a VM cannot be saved or rebuilt.
type Problem struct{ Device, Reason, Remedy string }

// Unsupported names every device that a snapshot would not bring back.
func (c *Config) Unsupported() []Problem {
	var out []Problem
	for _, u := range []struct{ key, device, reason, remedy string }{
		{"devices", "VFIO device", "its state lies in the hardware", "detach it before the snapshot"},
		{"user_devices", "vfio-user device", "its state lies in another process", "detach it before the snapshot"},
		{"vdpa", "vDPA device", "Cloud Hypervisor cannot save it", "detach it before the snapshot"},
		{"fs", "virtio-fs", "its state lies in another process and a restore hangs", "unmount it in the guest and remove the device"},
		{"generic_vhost_user", "vhost-user device", "its state lies in another process", "remove the device"},
		{"pmem", "pmem", "its file is shared with the guest and would not be copied", "use a disk"},
		{"tpm", "TPM", "its state lies in another process", "boot without it"},
		{"ivshmem", "ivshmem", "its memory is shared with another process", "boot without it"},
	} {
		if v, err := get(c.raw, u.key); err == nil && len(v) > 0 && !isEmptyJSON(v) {
			out = append(out, Problem{u.device, u.reason, u.remedy})
		}
	}
	for _, d := range c.view.Disks {
		if d.VhostUser {
			out = append(out, Problem{"disk " + d.ID, "vhost-user: its state lies in another process", "use a file"})
		} else if d.ImageType != "" && d.ImageType != "Raw" && d.ImageType != "Unknown" && !d.Readonly {
			out = append(out, Problem{"disk " + d.ID, d.ImageType + ": metadata held by the VMM is not in the file while it is paused", "use a raw disk"})
		}
	}
	for _, n := range c.view.Nets {
		if n.VhostUser {
			out = append(out, Problem{"network " + n.ID, "vhost-user: its state lies in another process", "use a TAP"})
		}
	}
	m := c.view.Memory
	if m.Hotplugged > 0 && m.Method != "VirtioMem" {
		out = append(out, Problem{"hot-plugged memory", "ACPI hot-plugged memory does not come back", "boot with the full size or use virtio-mem"})
	}
	for _, z := range m.Zones {
		if z.Shared && z.File != "" {
			out = append(out, Problem{"memory zone " + z.ID, "a shared file is not part of the snapshot", "boot without the file"})
		}
	}
	return out
}

func isEmptyJSON(v []byte) bool {
	return bytes.Equal(v, []byte("null")) || bytes.Equal(v, []byte("[]")) || bytes.Equal(v, []byte("{}"))
}

// MapRefusal says why the RAM cannot be mapped from a file, "" when it can:
// plain private memory, or what a mapped VM made of it. With a balloon it could
// (CH v53 only warns), but nothing that the guest gives back would be freed.
func (c *Config) MapRefusal() string {
	m := c.view.Memory
	switch {
	case m.Shared:
		return "memory is shared"
	case m.Hugepages:
		return "memory is in huge pages"
	case m.HotplugSize > 0 || m.Hotplugged > 0:
		return "memory can be hot-plugged"
	case len(m.Zones) > 1 || len(m.Zones) == 1 && (m.Size != 0 || m.Zones[0].Shared || m.Zones[0].Hugepages):
		return "memory has zones"
	case c.view.Balloon != nil:
		return "memory has a balloon, which can give back nothing of a mapped file"
	}
	return ""
}

// Rewrite says what of a configuration belongs to one VM process.
type Rewrite struct {
	Disks                       map[string]string // device id → path; every disk must be named
	Kernel, Firmware, Initramfs string            // "" drops the key
	SerialFile                  string
	Taps                        map[string]string // device id → TAP, "" for one that the VMM makes; every interface must be named
	Vsock                       string            // socket path; "" keeps it refused
}

// foreignNet are fields of an interface that only its own TAP had: the TAP's MAC
// (which v53.0 persists), its address, and descriptors of the source process.
var foreignNet = []string{"host_mac", "ip", "mask", "fds"}

// Rewrite points every path at the new VM's own files. A path that it does not
// cover is failure.Incompatible and named: a snapshot may come from anybody.
func (c *Config) Rewrite(w Rewrite) error {
	b := c.raw
	if err := exactKeys(b); err != nil {
		return err
	}
	if err := onlyKnown(b, "config", knownFields); err != nil {
		return err
	}
	for _, step := range []func([]byte) ([]byte, error){w.disks, w.nets, w.payload, w.consoles, w.vsock, w.rng, w.zones} {
		var err error
		if b, err = step(b); err != nil {
			return fmt.Errorf("rewrite config: %w", err)
		}
	}
	c.raw = b
	return c.read()
}

func (w Rewrite) disks(b []byte) ([]byte, error) {
	return edit(b, "disks", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, d []byte) ([]byte, error) {
			var v struct {
				ID          string `json:"id"`
				VhostUser   bool   `json:"vhost_user"`
				VhostSocket string `json:"vhost_socket"`
				diskFormat
			}
			if err := json.Unmarshal(d, &v); err != nil {
				return nil, err
			}
			path, ok := w.Disks[v.ID]
			if !ok {
				return nil, failure.New(failure.Incompatible, "no file for disk %q", v.ID)
			}
			if v.VhostUser || v.VhostSocket != "" {
				return nil, failure.New(failure.Incompatible, "disk %q is vhost-user", v.ID)
			}
			d, err := v.diskFormat.hold(d, v.ID)
			if err != nil {
				return nil, err
			}
			return set(d, "path", path)
		})
	})
}

func (w Rewrite) nets(b []byte) ([]byte, error) {
	return edit(b, "net", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, n []byte) ([]byte, error) {
			var v struct {
				ID          string `json:"id"`
				VhostSocket string `json:"vhost_socket"`
			}
			if err := json.Unmarshal(n, &v); err != nil {
				return nil, err
			}
			if v.VhostSocket != "" {
				return nil, failure.New(failure.Incompatible, "network %q is vhost-user", v.ID)
			}
			tap, ok := w.Taps[v.ID]
			if !ok {
				return nil, failure.New(failure.Incompatible, "no TAP for network %q", v.ID)
			}
			for _, key := range foreignNet {
				var err error
				if n, err = drop(n, key); err != nil {
					return nil, err
				}
			}
			if tap == "" {
				return drop(n, "tap")
			}
			return set(n, "tap", tap)
		})
	})
}

func (w Rewrite) payload(b []byte) ([]byte, error) {
	return edit(b, "payload", func(p []byte) ([]byte, error) {
		err := onlyKnown(p, "payload", []string{"kernel", "firmware", "initramfs", "cmdline"})
		if err != nil {
			return nil, err
		}
		for key, path := range map[string]string{"kernel": w.Kernel, "firmware": w.Firmware, "initramfs": w.Initramfs} {
			if path == "" {
				p, err = drop(p, key)
			} else {
				p, err = set(p, key, path)
			}
			if err != nil {
				return nil, err
			}
		}
		return p, nil
	})
}

func (w Rewrite) consoles(b []byte) ([]byte, error) {
	b, err := edit(b, "serial", func(s []byte) ([]byte, error) {
		s, err := drop(s, "socket")
		if err != nil {
			return nil, err
		}
		if s, err = set(s, "mode", "File"); err != nil {
			return nil, err
		}
		return set(s, "file", w.SerialFile)
	})
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"console", "debug_console"} {
		b, err = edit(b, key, func(s []byte) ([]byte, error) {
			if s, err = drop(s, "file"); err != nil {
				return nil, err
			}
			if s, err = drop(s, "socket"); err != nil {
				return nil, err
			}
			return muteConsole(s)
		})
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// muteConsole: a console that wrote to a file, pty or terminal of the source
// has no place here. Null keeps the virtio device, Off stays Off.
func muteConsole(s []byte) ([]byte, error) {
	mode, err := get(s, "mode")
	if err != nil || bytes.Equal(mode, []byte(`"Off"`)) {
		return s, err
	}
	return set(s, "mode", "Null")
}

func (w Rewrite) vsock(b []byte) ([]byte, error) {
	return edit(b, "vsock", func(v []byte) ([]byte, error) {
		if w.Vsock == "" {
			return nil, failure.New(failure.Incompatible, "vsock needs a socket of its own")
		}
		return set(v, "socket", w.Vsock)
	})
}

// entropy are the devices that a VM's random numbers may come from.
var entropy = []string{"/dev/urandom", "/dev/random", "/dev/hwrng"}

func (w Rewrite) rng(b []byte) ([]byte, error) {
	return edit(b, "rng", func(r []byte) ([]byte, error) {
		var v struct {
			Src string `json:"src"`
		}
		if err := json.Unmarshal(r, &v); err != nil {
			return nil, err
		}
		if v.Src != "" && !slices.Contains(entropy, v.Src) {
			return nil, failure.New(failure.Incompatible, "rng reads %q", v.Src)
		}
		return r, nil
	})
}

// zones refuses a zone that maps a file: Normalise takes ours away at capture.
func (w Rewrite) zones(b []byte) ([]byte, error) {
	return edit(b, "memory", func(m []byte) ([]byte, error) {
		var v memoryView
		if err := json.Unmarshal(m, &v); err != nil {
			return nil, err
		}
		for _, z := range v.Zones {
			if z.File != "" {
				return nil, failure.New(failure.Incompatible, "memory zone %s maps file %q", z.ID, z.File)
			}
		}
		return m, nil
	})
}

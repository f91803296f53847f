package chsnap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Config is config.json (the VMM's VmConfig), kept as its bytes.
type Config struct {
	raw  []byte
	view configView
}

// configView is the part that is read; everything else is only carried.
type configView struct {
	CPUs struct {
		Boot int `json:"boot_vcpus"`
	} `json:"cpus"`
	Memory  memoryView   `json:"memory"`
	Payload Payload      `json:"payload"`
	Disks   []DiskConfig `json:"disks"`
	Nets    []NetConfig  `json:"net"`
	Balloon *struct{}    `json:"balloon"`
	RNG     struct {
		Src string `json:"src"`
	} `json:"rng"`
	Vsock         *struct{}      `json:"vsock"`
	Landlock      bool           `json:"landlock_enable"`
	LandlockRules []landlockRule `json:"landlock_rules"`
}

type memoryView struct {
	Size         uint64     `json:"size"`
	Shared       bool       `json:"shared"`
	Hugepages    bool       `json:"hugepages"`
	HugepageSize uint64     `json:"hugepage_size"`
	Hotplugged   uint64     `json:"hotplugged_size"`
	HotplugSize  uint64     `json:"hotplug_size"`
	Method       string     `json:"hotplug_method"`
	Zones        []zoneView `json:"zones"`
}

type zoneView struct {
	ID           string  `json:"id"`
	Size         uint64  `json:"size"`
	File         string  `json:"file"`
	Shared       bool    `json:"shared"`
	Hugepages    bool    `json:"hugepages"`
	HugepageSize uint64  `json:"hugepage_size"`
	Hotplugged   uint64  `json:"hotplugged_size"`
	HotplugSize  uint64  `json:"hotplug_size"`
	Node         *uint32 `json:"host_numa_node"`
}

type landlockRule struct {
	Path   string `json:"path"`
	Access string `json:"access"`
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
	ID           string `json:"id"`
	Path         string `json:"path"`
	Readonly     bool   `json:"readonly"`
	Serial       string `json:"serial"`
	ImageType    string `json:"image_type"`
	BackingFiles bool   `json:"backing_files"`
	VhostUser    bool   `json:"vhost_user"`
	VhostSocket  string `json:"vhost_socket"`
}

// NetConfig is one virtio-net interface.
type NetConfig struct {
	ID          string `json:"id"`
	Tap         string `json:"tap"`
	MAC         string `json:"mac"`
	MTU         int    `json:"mtu"`        // bytes, 0 if the VMM was given none
	Queues      int    `json:"num_queues"` // two for a pair
	VhostUser   bool   `json:"vhost_user"`
	VhostSocket string `json:"vhost_socket"`
	FDs         []int  `json:"fds"`
}

// ParseConfig reads config.json, or the config of vm.info.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > configLimit {
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
		sum += z.Size + z.Hotplugged
	}
	return sum
}

// HotplugBytes is how much RAM can be plugged in, in addition to that at boot.
func (c *Config) HotplugBytes() uint64 {
	sum := c.view.Memory.HotplugSize
	for _, z := range c.view.Memory.Zones {
		sum += z.HotplugSize
	}
	return sum
}

// Payload of the VM; without a kernel if it was restored without one.
func (c *Config) Payload() Payload {
	p := c.view.Payload
	if p.Kernel == noKernel {
		p.Kernel = ""
	}
	return p
}

// SetPayload changes what the VM boots from: "" for a missing file. A VM without
// kernel and firmware has no payload at all; its RAM can still be loaded.
func (c *Config) SetPayload(kernel, firmware, initramfs string) error {
	var b []byte
	var err error
	if kernel == "" && firmware == "" {
		b, err = drop(c.raw, "payload")
	} else {
		b, err = Rewrite{Kernel: kernel, Firmware: firmware, Initramfs: initramfs}.payload(c.raw)
	}
	if err != nil {
		return fmt.Errorf("config: payload: %w", err)
	}
	c.raw = b
	return c.read()
}

// Disks in order.
func (c *Config) Disks() []DiskConfig { return slices.Clone(c.view.Disks) }

// Nets in order.
func (c *Config) Nets() []NetConfig { return slices.Clone(c.view.Nets) }

func isEmptyJSON(v []byte) bool {
	return bytes.Equal(v, []byte("null")) || bytes.Equal(v, []byte("[]")) || bytes.Equal(v, []byte("{}"))
}

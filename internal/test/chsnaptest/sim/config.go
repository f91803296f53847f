package sim

import (
	"encoding/json"
	"errors"
	"fmt"
)

// vmConfig is v53's VmConfig: the fields the simulator acts on, in the order the
// real one writes them, and the rest as raw JSON so that a configuration with
// devices that are not simulated is still stored and shown.
type vmConfig struct {
	CPUs         cpusConfig      `json:"cpus"`
	Memory       memoryConfig    `json:"memory"`
	Payload      *payloadConfig  `json:"payload,omitempty"`
	RateLimits   json.RawMessage `json:"rate_limit_groups,omitempty"`
	Disks        []diskConfig    `json:"disks,omitempty"`
	Net          []netConfig     `json:"net,omitempty"`
	RNG          json.RawMessage `json:"rng"`
	Balloon      json.RawMessage `json:"balloon,omitempty"`
	FS           json.RawMessage `json:"fs,omitempty"`
	Pmem         json.RawMessage `json:"pmem,omitempty"`
	Serial       consoleConfig   `json:"serial"`
	Console      consoleConfig   `json:"console"`
	DebugConsole json.RawMessage `json:"debug_console"`
	Devices      json.RawMessage `json:"devices,omitempty"`
	UserDevices  json.RawMessage `json:"user_devices,omitempty"`
	VDPA         json.RawMessage `json:"vdpa,omitempty"`
	Vsock        *vsockConfig    `json:"vsock,omitempty"`
	Pvpanic      bool            `json:"pvpanic"`
	IOMMU        bool            `json:"iommu"`
	NUMA         json.RawMessage `json:"numa,omitempty"`
	Watchdog     bool            `json:"watchdog"`
	RTC          json.RawMessage `json:"rtc,omitempty"`
	Segments     json.RawMessage `json:"pci_segments,omitempty"`
	Platform     json.RawMessage `json:"platform,omitempty"`
	TPM          json.RawMessage `json:"tpm,omitempty"`
	Landlock     bool            `json:"landlock_enable"`
	Rules        json.RawMessage `json:"landlock_rules,omitempty"`
}

type cpusConfig struct {
	Boot           int             `json:"boot_vcpus"`
	Max            int             `json:"max_vcpus"`
	Topology       json.RawMessage `json:"topology,omitempty"`
	HyperV         bool            `json:"kvm_hyperv"`
	MaxPhysBits    int             `json:"max_phys_bits"`
	Affinity       json.RawMessage `json:"affinity,omitempty"`
	Features       json.RawMessage `json:"features"`
	Nested         bool            `json:"nested"`
	CoreScheduling string          `json:"core_scheduling"`
	Profile        string          `json:"profile"`
}

type memoryConfig struct {
	Size          uint64       `json:"size"`
	Mergeable     bool         `json:"mergeable"`
	HotplugMethod string       `json:"hotplug_method"`
	HotplugSize   *uint64      `json:"hotplug_size,omitempty"`
	HotpluggedSz  *uint64      `json:"hotplugged_size,omitempty"`
	Shared        bool         `json:"shared"`
	Hugepages     bool         `json:"hugepages"`
	HugepageSize  *uint64      `json:"hugepage_size,omitempty"`
	Prefault      bool         `json:"prefault"`
	Reserve       bool         `json:"reserve"`
	Zones         []zoneConfig `json:"zones,omitempty"`
	THP           bool         `json:"thp"`
}

// zoneConfig is one user-defined memory zone; File is mapped privately unless
// Shared.
type zoneConfig struct {
	ID        string `json:"id"`
	Size      uint64 `json:"size"`
	File      string `json:"file,omitempty"`
	Shared    bool   `json:"shared"`
	Hugepages bool   `json:"hugepages"`
	Prefault  bool   `json:"prefault"`
	Mergeable bool   `json:"mergeable"`
}

type payloadConfig struct {
	Firmware  string `json:"firmware,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
	Initramfs string `json:"initramfs,omitempty"`
}

type diskConfig struct {
	ID              string          `json:"id,omitempty"`
	Segment         int             `json:"pci_segment"`
	Path            string          `json:"path,omitempty"`
	Readonly        bool            `json:"readonly"`
	Direct          bool            `json:"direct"`
	NumQueues       int             `json:"num_queues"`
	QueueSize       int             `json:"queue_size"`
	VhostUser       bool            `json:"vhost_user"`
	VhostSocket     string          `json:"vhost_socket,omitempty"`
	RateLimiter     json.RawMessage `json:"rate_limiter_config,omitempty"`
	DisableIOUring  bool            `json:"disable_io_uring"`
	DisableAIO      bool            `json:"disable_aio"`
	Serial          string          `json:"serial,omitempty"`
	BackingFiles    bool            `json:"backing_files"`
	Sparse          bool            `json:"sparse"`
	ImageType       string          `json:"image_type,omitempty"`
	LockGranularity string          `json:"lock_granularity"`
}

type netConfig struct {
	ID          string          `json:"id,omitempty"`
	Segment     int             `json:"pci_segment"`
	Tap         string          `json:"tap,omitempty"`
	IP          string          `json:"ip,omitempty"`
	Mask        string          `json:"mask,omitempty"`
	MAC         string          `json:"mac"`
	HostMAC     string          `json:"host_mac,omitempty"`
	MTU         *int            `json:"mtu,omitempty"`
	NumQueues   int             `json:"num_queues"`
	QueueSize   int             `json:"queue_size"`
	VhostUser   bool            `json:"vhost_user"`
	VhostSocket string          `json:"vhost_socket,omitempty"`
	VhostMode   string          `json:"vhost_mode"`
	FDs         []int           `json:"fds,omitempty"`
	RateLimiter json.RawMessage `json:"rate_limiter_config,omitempty"`
	OffloadTSO  bool            `json:"offload_tso"`
	OffloadUFO  bool            `json:"offload_ufo"`
	OffloadCsum bool            `json:"offload_csum"`
}

// consoleConfig is the serial port or the virtio console; Segment is nil for
// the serial port, which is no PCI device.
type consoleConfig struct {
	File    string `json:"file,omitempty"`
	Mode    string `json:"mode"`
	Socket  string `json:"socket,omitempty"`
	Segment *int   `json:"pci_segment,omitempty"`
}

type vsockConfig struct {
	ID      string `json:"id,omitempty"`
	Segment int    `json:"pci_segment"`
	CID     uint32 `json:"cid"`
	Socket  string `json:"socket"`
}

// newConfig returns the defaults of vm.create.
func newConfig() *vmConfig {
	zero := 0
	return &vmConfig{
		CPUs: cpusConfig{
			Boot: 1, Max: 1, MaxPhysBits: 46, Features: json.RawMessage(`{"amx":false}`),
			Nested: true, CoreScheduling: "Vm", Profile: "Host",
		},
		Memory:       memoryConfig{Size: 512 << 20, HotplugMethod: "Acpi", THP: true},
		RNG:          json.RawMessage(`{"pci_segment":0,"src":"/dev/urandom"}`),
		Serial:       consoleConfig{Mode: "Null"},
		Console:      consoleConfig{Mode: "Tty", Segment: &zero},
		DebugConsole: json.RawMessage(`{"mode":"Off","iobase":233}`),
	}
}

func newDisk() diskConfig {
	return diskConfig{NumQueues: 1, QueueSize: 128, Sparse: true, LockGranularity: "ByteRange"}
}

func newNet() netConfig {
	return netConfig{
		MAC: "2e:89:a8:e4:bf:95", NumQueues: 2, QueueSize: 256, VhostMode: "Client",
		OffloadTSO: true, OffloadUFO: true, OffloadCsum: true,
	}
}

// UnmarshalJSON applies the defaults of a disk to what is not given.
func (d *diskConfig) UnmarshalJSON(b []byte) error {
	type plain diskConfig
	p := plain(newDisk())
	err := json.Unmarshal(b, &p)
	*d = diskConfig(p)
	return err
}

// UnmarshalJSON applies the defaults of a network device to what is not given.
func (n *netConfig) UnmarshalJSON(b []byte) error {
	type plain netConfig
	p := plain(newNet())
	err := json.Unmarshal(b, &p)
	*n = netConfig(p)
	return err
}

// parseConfig decodes a VmConfig with the defaults of the real one.
func parseConfig(b []byte) (*vmConfig, error) {
	c := newConfig()
	if err := json.Unmarshal(b, c); err != nil {
		return nil, errors.New(serdeMessage(b, err))
	}
	return c, nil
}

// validate is what the real VMM checks at boot or restore, not at vm.create.
func (c *vmConfig) validate() error {
	if c.Payload == nil || c.Payload.Firmware == "" && c.Payload.Kernel == "" {
		return faultf("Failed to validate config", "Payload configuration is not bootable",
			"No bootitem provided: neither firmware nor kernel")
	}
	if c.memoryBytes() == 0 {
		return faultf("Memory manager error", "Cannot create memory manager: no memory")
	}
	return nil
}

// memoryBytes is the guest's RAM: the plain size, or the sum of the zones.
func (c *vmConfig) memoryBytes() uint64 {
	total := c.Memory.Size
	for _, z := range c.Memory.Zones {
		total += z.Size
	}
	return total
}

// zoneID is the zone that RAM belongs to: the first, or the one that the real VMM
// makes of plain memory.
func (c *vmConfig) zoneID() string {
	if len(c.Memory.Zones) > 0 {
		return c.Memory.Zones[0].ID
	}
	return "mem0"
}

// nameDevices gives ids to devices that have none, from one shared counter in
// the order disks, networks, vsock. It returns the counter's next value.
func (c *vmConfig) nameDevices() int {
	next := 0
	name := func(id *string, kind string) {
		if *id == "" {
			*id = fmt.Sprintf("_%s%d", kind, next)
		}
		next++
	}
	for i := range c.Disks {
		name(&c.Disks[i].ID, "disk")
	}
	for i := range c.Net {
		name(&c.Net[i].ID, "net")
	}
	if c.Vsock != nil {
		name(&c.Vsock.ID, "vsock")
	}
	return next
}

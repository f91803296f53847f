package sim

import (
	"embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// templates are state.json files of the real v53.0: one plain VM, one with a
// disk, a network device, vsock, balloon and watchdog. Of the frequency of the
// time stamp counter they say nothing: a guest that is simulated has none.
//
//go:embed template/*.json
var templates embed.FS

// snapshotNode is the tree that state.json is: every node has its state as JSON
// text inside JSON.
type snapshotNode struct {
	Snapshots map[string]*snapshotNode `json:"snapshots"`
	Data      *snapshotData            `json:"snapshot_data"`
}

type snapshotData struct {
	State string `json:"state"`
}

type memoryRange struct {
	GPA    uint64 `json:"gpa"`
	Length uint64 `json:"length"`
}

type rangeTable struct {
	Data []memoryRange `json:"data"`
}

type ramMapping struct {
	Slot       int    `json:"slot"`
	GPA        uint64 `json:"gpa"`
	Size       uint64 `json:"size"`
	ZoneID     string `json:"zone_id"`
	VirtioMem  bool   `json:"virtio_mem"`
	FileOffset uint64 `json:"file_offset"`
}

// archRegion is typed to refuse, as the real one does, a size that went through a
// float: the region above 4 GiB is 2^64-1 bytes long.
type archRegion struct {
	Base uint64 `json:"base"`
	Size uint64 `json:"size"`
	Type string `json:"r_type"`
}

// memoryState is the memory-manager's part of state.json, in v53's order.
type memoryState struct {
	Ranges           rangeTable      `json:"memory_ranges"`
	Mappings         []ramMapping    `json:"guest_ram_mappings"`
	DeviceAreaStart  uint64          `json:"start_of_device_area"`
	BootRAM          uint64          `json:"boot_ram"`
	CurrentRAM       uint64          `json:"current_ram"`
	ArchRegions      []archRegion    `json:"arch_mem_regions"`
	HotplugSlots     json.RawMessage `json:"hotplug_slots"`
	NextMemorySlot   int             `json:"next_memory_slot"`
	SelectedSlot     int             `json:"selected_slot"`
	NextHotplugIndex int             `json:"next_hotplug_slot"`
}

type treeNode struct {
	ID        string          `json:"id"`
	Resources json.RawMessage `json:"resources"`
	Parent    string          `json:"parent,omitempty"`
	Children  []string        `json:"children"`
	BDF       string          `json:"pci_bdf,omitempty"`
}

func loadTemplate(name string) (*snapshotNode, error) {
	b, err := templates.ReadFile("template/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading state template %s: %w", name, err)
	}
	n := &snapshotNode{}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("parsing state template %s: %w", name, err)
	}
	return n, nil
}

// device is one node to put into the tree: the id in this VM and the id of the
// template it takes its state from.
type device struct{ id, like string }

// devices lists what a configuration has, in PCI order.
func (c *vmConfig) devices() []device {
	var list []device
	for _, d := range c.Disks {
		list = append(list, device{d.ID, "_disk0"})
	}
	for _, n := range c.Net {
		list = append(list, device{n.ID, "_net1"})
	}
	list = append(list, device{"__rng", "__rng"})
	if c.Vsock != nil {
		list = append(list, device{c.Vsock.ID, "_vsock2"})
	}
	if len(c.Balloon) > 0 {
		list = append(list, device{"__balloon", "__balloon"})
	}
	if c.Watchdog {
		list = append(list, device{"__watchdog", "__watchdog"})
	}
	return list
}

// deviceTree is vm.info's device_tree and state.json's, for this configuration.
func deviceTree(c *vmConfig) map[string]treeNode {
	none := json.RawMessage("[]")
	tree := map[string]treeNode{"__ioapic": {ID: "__ioapic", Resources: none, Children: []string{}}}
	if c.Serial.Mode != "Off" {
		tree["__serial"] = treeNode{ID: "__serial", Resources: none, Children: []string{}}
	}
	for i, d := range c.devices() {
		bar := fmt.Sprintf(`[{"PciBar":{"index":0,"base":%d,"size":524288,"type_":"Mmio64","prefetchable":false}}]`,
			70368735789056-uint64(i)*8388608)
		parent := "_virtio-pci-" + d.id
		tree[parent] = treeNode{
			ID: parent, Resources: json.RawMessage(bar), Children: []string{d.id},
			BDF: fmt.Sprintf("0000:00:%02x.0", i+1),
		}
		tree[d.id] = treeNode{ID: d.id, Resources: none, Parent: parent, Children: []string{}}
	}
	return tree
}

// buildState makes the state.json of a paused VM.
func buildState(c *vmConfig, r *ram, deviceCount int) ([]byte, error) {
	root, err := loadTemplate("plain")
	if err != nil {
		return nil, err
	}
	if err := setMemory(root.Snapshots["memory-manager"], r, c.zoneID()); err != nil {
		return nil, err
	}
	cpus := root.Snapshots["cpu-manager"].Snapshots
	for i := 1; i < c.CPUs.Boot; i++ {
		cpus[strconv.Itoa(i)] = cpus["0"]
	}
	if err := setDevices(root.Snapshots["device-manager"], c, deviceCount); err != nil {
		return nil, err
	}
	return json.Marshal(root)
}

func setMemory(node *snapshotNode, r *ram, zone string) error {
	m := &memoryState{}
	if err := json.Unmarshal([]byte(node.Data.State), m); err != nil {
		return fmt.Errorf("parsing the memory-manager template: %w", err)
	}
	m.Ranges.Data, m.Mappings = nil, nil
	top := uint64(0)
	for _, s := range r.spans {
		m.Ranges.Data = append(m.Ranges.Data, memoryRange{GPA: s.gpa, Length: s.size})
		m.Mappings = append(m.Mappings, ramMapping{Slot: s.slot, GPA: s.gpa, Size: s.size, ZoneID: zone, FileOffset: s.fileOffset})
		top = s.gpa + s.size
		m.NextMemorySlot = s.slot + 1
	}
	m.DeviceAreaStart = max(highBase, top)
	m.BootRAM, m.CurrentRAM = r.bytes(), r.bytes()
	text, err := json.Marshal(m)
	node.Data.State = string(text)
	return err
}

func setDevices(node *snapshotNode, c *vmConfig, deviceCount int) error {
	all, err := loadTemplate("devices")
	if err != nil {
		return err
	}
	source := all.Snapshots["device-manager"].Snapshots
	node.Snapshots = map[string]*snapshotNode{"__ioapic": source["__ioapic"]}
	if c.Serial.Mode != "Off" {
		node.Snapshots["__serial"] = source["__serial"]
	}
	for _, d := range c.devices() {
		node.Snapshots[d.id] = source[d.like]
		node.Snapshots["_virtio-pci-"+d.id] = source["_virtio-pci-"+d.like]
	}
	for _, d := range c.Disks {
		state := *source["_disk0"]
		text := strings.ReplaceAll(state.Data.State, `"/var/lib/cocoon/vms/vm0/disk0.raw"`, strconv.Quote(d.Path))
		state.Data = &snapshotData{State: text}
		node.Snapshots[d.ID] = &state
	}
	text, err := json.Marshal(struct {
		Tree  map[string]treeNode `json:"device_tree"`
		Count int                 `json:"device_id_cnt"`
	}{deviceTree(c), deviceCount})
	node.Data = &snapshotData{State: string(text)}
	return err
}

// savedState is what the simulator reads back from a state.json.
type savedState struct {
	memory  memoryState
	devices map[string]*snapshotNode
}

// parseState reads a state.json; the error is serde's text as far as known.
func parseState(b []byte) (*savedState, error) {
	root := &snapshotNode{}
	if err := json.Unmarshal(b, root); err != nil {
		return nil, fmt.Errorf("%s", serdeMessage(b, err))
	}
	memory, devices := root.Snapshots["memory-manager"], root.Snapshots["device-manager"]
	if memory == nil || memory.Data == nil || devices == nil {
		return nil, fmt.Errorf("missing memory-manager or device-manager state")
	}
	s := &savedState{devices: devices.Snapshots}
	if err := json.Unmarshal([]byte(memory.Data.State), &s.memory); err != nil {
		return nil, fmt.Errorf("%s", serdeMessage([]byte(memory.Data.State), err))
	}
	return s, nil
}

// missing lists the configured disks, networks and vsock without saved state.
func (s *savedState) missing(c *vmConfig) []string {
	var ids []string
	for _, d := range c.devices() {
		if s.devices[d.id] == nil {
			ids = append(ids, d.id)
		}
	}
	return ids
}

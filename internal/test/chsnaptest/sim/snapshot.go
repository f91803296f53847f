package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// snapshot writes config.json, state.json and memory-ranges, in this order, into
// an existing folder. Each file must not exist. Nothing is removed on error.
func (m *machine) snapshot(url string) error {
	if m.vm == nil {
		return errNotRunning()
	}
	if m.vm.state != statePaused {
		return faultf("Cannot snapshot VM", "Failed to snapshot migratable component", "Trying to snapshot while VM is running")
	}
	if err := m.send(url); err != nil {
		return within(err, "Cannot send VM snapshot", "Failed to send migratable component snapshot")
	}
	return nil
}

// within puts outer messages in front of err's.
func within(err error, outer ...string) error {
	var f *fault
	if !errors.As(err, &f) {
		return faultf(append(outer, err.Error())...)
	}
	return faultf(append(outer, f.chain...)...)
}

// folderOf takes the path out of a file:// URL of an existing folder.
func folderOf(url string) (string, error) {
	path, ok := strings.CutPrefix(url, "file://")
	if !ok {
		return "", faultf("Could not extract path from URL: " + url)
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return "", faultf(fmt.Sprintf("Destination is not a directory: %q", path))
	}
	return path, nil
}

func (m *machine) send(url string) error {
	dir, err := folderOf(url)
	if err != nil {
		return err
	}
	if !m.config.mayWrite(dir) {
		return faultf("Error creating VM config snapshot file", "Permission denied (os error 13)")
	}
	config, err := json.Marshal(m.config)
	if err != nil {
		return err
	}
	state, err := buildState(m.config, m.vm.ram, m.vm.deviceCount)
	if err != nil {
		return err
	}
	if err := writeNew(dir, "config.json", "VM config", config); err != nil {
		return err
	}
	if err := writeNew(dir, "state.json", "VM state", state); err != nil {
		return err
	}
	return m.sendMemory(dir)
}

// mayWrite: a VMM that confined itself makes files where a rule allows it only.
func (c *vmConfig) mayWrite(dir string) bool { return c.may("w", dir) }

func (c *vmConfig) may(access, dir string) bool {
	var rules []struct{ Path, Access string }
	if !c.Landlock || len(c.Rules) > 0 && json.Unmarshal(c.Rules, &rules) != nil {
		return !c.Landlock
	}
	for _, r := range rules {
		if strings.Contains(r.Access, access) && strings.HasPrefix(dir+"/", strings.TrimSuffix(r.Path, "/")+"/") {
			return true
		}
	}
	return false
}

func writeNew(dir, name, what string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return faultf(fmt.Sprintf("Error creating %s snapshot file", what)).because(err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return faultf(fmt.Sprintf("Error writing %s snapshot file", what)).because(err)
	}
	return nil
}

func (m *machine) sendMemory(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "memory-ranges"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return faultf("Error creating memory snapshot file").because(err)
	}
	defer f.Close()
	limit := int64(-1)
	if m.noSpace {
		limit = int64(m.vm.ram.bytes() / 2)
	}
	return m.vm.ram.dump(f, limit)
}

// restore builds a paused VM from a snapshot folder. After an error the machine
// is empty again and accepts another attempt.
func (m *machine) restore(r *restoreRequest) error {
	if m.config != nil || m.vm != nil {
		return errExists()
	}
	dir, err := folderOf(*r.SourceURL)
	if err != nil {
		return within(err, "Cannot restore VM", "Failed to send migratable component snapshot")
	}
	config, state, err := readSnapshot(dir)
	if err != nil {
		return within(err, "Cannot restore VM", "Failed to receive migratable component snapshot")
	}
	if err := m.rebuild(dir, config, state); err != nil {
		return err
	}
	if r.Resume {
		return m.resume()
	}
	return nil
}

func readSnapshot(dir string) (*vmConfig, *savedState, error) {
	b, err := readPart(dir, "config.json", "VM config")
	if err != nil {
		return nil, nil, err
	}
	config, err := parseConfig(b)
	if err != nil {
		return nil, nil, faultf("Error deserialising VM config snapshot", err.Error())
	}
	if b, err = readPart(dir, "state.json", "VM state"); err != nil {
		return nil, nil, err
	}
	state, err := parseState(b)
	if err != nil {
		return nil, nil, faultf("Error deserialising VM state snapshot", err.Error())
	}
	return config, state, nil
}

func readPart(dir, name, what string) ([]byte, error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, faultf(fmt.Sprintf("Error opening %s snapshot file %q", what, path)).because(err)
	}
	return b, nil
}

// rebuild maps RAM as the saved state says, fills it from memory-ranges unless
// the range table is empty (then a zone's file is the memory), and assembles.
func (m *machine) rebuild(dir string, c *vmConfig, s *savedState) error {
	if err := c.validate(); err != nil {
		return err
	}
	spans, err := spansOf(c, s)
	if err != nil {
		return err
	}
	load := func(r *ram) error {
		if len(s.memory.Ranges.Data) == 0 {
			return nil
		}
		return r.load(filepath.Join(dir, "memory-ranges"), s.memory.Ranges.Data)
	}
	return m.assemble(c, spans, assembly{load: load, missing: s.missing(c)})
}

// spansOf turns the saved mappings into RAM; their sum must be the configured
// size, and with zones every mapping must name one.
func spansOf(c *vmConfig, s *savedState) ([]*span, error) {
	slot, total := 0, uint64(0)
	if len(c.Memory.Zones) > 0 {
		slot = 1
	}
	var spans []*span
	for _, g := range s.memory.Mappings {
		if c.zoneID() != g.ZoneID {
			return nil, faultf("Memory manager error", "Cannot restore VM: unknown memory zone "+g.ZoneID)
		}
		spans = append(spans, &span{gpa: g.GPA, size: g.Size, slot: slot, fileOffset: g.FileOffset})
		slot++
		total += g.Size
	}
	if total == 0 || total != c.memoryBytes() {
		return nil, faultf("Memory manager error", fmt.Sprintf("Cannot restore VM: mappings hold %d bytes, configuration %d", total, c.memoryBytes()))
	}
	return spans, nil
}

package chsnap

import (
	"bytes"
	"encoding/json"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// StreamVersion is the first major version of Cloud Hypervisor whose
// vm.receive-migration takes RAM over several connections.
const StreamVersion = 53

// MigrationConfig makes the first document that a VMM in vm.receive-migration
// expects: vm_config is config.json, memory_manager_data the memory manager's
// part of state.json without its table of ranges, common_cpuid the processor's
// part of state.json. State.Bytes is the last one it expects.
func MigrationConfig(c *Config, s *State) ([]byte, error) {
	if why := c.StreamRefusal(); why != "" {
		return nil, failure.New(failure.Incompatible, "stream restore: %s", why)
	}
	mm, err := s.memoryManager()
	if err != nil {
		return nil, err
	}
	if mm, err = set(mm, "memory_ranges", json.RawMessage(`{"data":[]}`)); err != nil {
		return nil, err
	}
	cpuid, err := s.commonCPUID()
	if err != nil {
		return nil, err
	}
	return encode(struct {
		Config json.RawMessage `json:"vm_config"`
		CPUID  json.RawMessage `json:"common_cpuid,omitempty"`
		Memory json.RawMessage `json:"memory_manager_data"`
	}{c.raw, cpuid, mm})
}

// commonCPUID is in the JSON string at snapshot_data.state; nil if the
// architecture has none.
func (s *State) commonCPUID() ([]byte, error) {
	data, err := get(s.raw, "snapshot_data")
	if err != nil || data == nil || bytes.Equal(data, []byte("null")) {
		return nil, err
	}
	inner, err := get(data, "state")
	if err != nil || inner == nil {
		return nil, err
	}
	var text string
	if err := json.Unmarshal(inner, &text); err != nil {
		return nil, failure.New(failure.Damaged, "state: %w", err)
	}
	return get([]byte(text), "common_cpuid")
}

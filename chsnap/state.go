package chsnap

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// State is state.json: the device and CPU state, kept as its bytes.
type State struct {
	raw    []byte
	ranges []Range
	zone   string // of the first mapping
}

// Range is a stretch of guest RAM, guest-physical bytes. Their order is that in
// memory-ranges.
type Range struct {
	GPA    uint64 `json:"gpa"`
	Length uint64 `json:"length"`
}

// mapping is one KVM memory slot in the memory manager's state.
type mapping struct {
	GPA  uint64 `json:"gpa"`
	Size uint64 `json:"size"`
	Zone string `json:"zone_id"`
}

// maxRanges limits the table; one VM has one to a few.
const maxRanges = 1 << 16

// ParseState reads state.json and checks its table of memory ranges.
func ParseState(b []byte) (*State, error) {
	if len(b) > documentLimit {
		return nil, failure.New(failure.Damaged, "state of %d bytes", len(b))
	}
	s := &State{raw: bytes.Clone(b)}
	return s, s.read()
}

// read takes the ranges out of the memory manager's state.
func (s *State) read() error {
	mm, err := s.memoryManager()
	if err != nil {
		return err
	}
	var v struct {
		Ranges struct {
			Data []Range `json:"data"`
		} `json:"memory_ranges"`
		Mappings []mapping `json:"guest_ram_mappings"`
	}
	if err := json.Unmarshal(mm, &v); err != nil {
		return failure.New(failure.Damaged, "state: memory manager: %w", err)
	}
	s.ranges, s.zone = v.Ranges.Data, plainZone
	if len(v.Mappings) > 0 && v.Mappings[0].Zone != "" {
		s.zone = v.Mappings[0].Zone
	}
	return checkRanges(s.ranges)
}

func checkRanges(ranges []Range) error {
	if len(ranges) > maxRanges {
		return failure.New(failure.Damaged, "state: %d memory ranges", len(ranges))
	}
	var sum uint64
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int {
		if a.GPA < b.GPA {
			return -1
		}
		return 1
	})
	var end uint64
	for _, r := range sorted {
		if r.Length == 0 || (r.GPA|r.Length)%4096 != 0 || r.GPA < end || r.GPA+r.Length < r.GPA || r.Length > 1<<42 || sum+r.Length > 1<<42 {
			return failure.New(failure.Damaged, "state: memory range %#x+%#x is unaligned, overlapping or absurd", r.GPA, r.Length)
		}
		end, sum = r.GPA+r.Length, sum+r.Length
	}
	return nil
}

// Bytes is the document; unchanged, it is byte for byte what was parsed.
func (s *State) Bytes() []byte { return bytes.Clone(s.raw) }

// MemoryRanges in the order of memory-ranges.
func (s *State) MemoryRanges() []Range { return slices.Clone(s.ranges) }

// bytes of RAM that the ranges have.
func (s *State) bytes() (sum uint64) {
	for _, r := range s.ranges {
		sum += r.Length
	}
	return sum
}

// zoneID is the zone of RAM that the VMM expects at a restore.
func (s *State) zoneID() string { return s.zone }

// memoryManager is the JSON document inside the JSON string at
// snapshots.memory-manager.snapshot_data.state.
func (s *State) memoryManager() ([]byte, error) {
	b := s.raw
	for _, key := range []string{"snapshots", "memory-manager", "snapshot_data", "state"} {
		var err error
		if b, err = get(b, key); err != nil {
			return nil, err
		}
		if b == nil {
			return nil, failure.New(failure.Damaged, "state: no %s", key)
		}
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return nil, failure.New(failure.Damaged, "state: memory manager: %w", err)
	}
	return []byte(text), nil
}

// editMemoryManager changes that inner document and nothing else.
func (s *State) editMemoryManager(change func([]byte) ([]byte, error)) error {
	raw, err := editPath(s.raw, []string{"snapshots", "memory-manager", "snapshot_data", "state"}, func(b []byte) ([]byte, error) {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return nil, failure.New(failure.Damaged, "state: memory manager: %w", err)
		}
		inner, err := change([]byte(text))
		if err != nil {
			return nil, err
		}
		return encode(string(inner))
	})
	if err != nil {
		return err
	}
	s.raw = raw
	return s.read()
}

func editPath(b []byte, path []string, change func([]byte) ([]byte, error)) ([]byte, error) {
	if len(path) == 0 {
		return change(b)
	}
	return edit(b, path[0], func(v []byte) ([]byte, error) { return editPath(v, path[1:], change) })
}

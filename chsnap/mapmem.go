package chsnap

import (
	"encoding/json"
	"errors"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// MapMemory rewrites both documents so that the VMM maps file privately
// instead of reading it: memory.size becomes 0 with one zone of the whole size
// on that file, each mapping's file_offset is where its range stands in the
// file, and the range table is empty. Seen on v53.0 with guests booted plainly.
func MapMemory(c *Config, s *State, file string) error {
	if why := c.MapRefusal(); why != "" {
		return failure.New(failure.Incompatible, "map restore: %s", why)
	}
	if m, err := get(c.raw, "memory"); err != nil || m == nil || isEmptyJSON(m) {
		return errors.Join(failure.New(failure.Damaged, "map restore: the configuration has no memory"), err)
	}
	offsets, total := map[uint64]uint64{}, uint64(0)
	for _, r := range s.ranges {
		offsets[r.GPA], total = total, total+r.Length
	}
	raw, err := edit(c.raw, "memory", func(m []byte) ([]byte, error) {
		return setZone(m, total, file)
	})
	if err != nil {
		return err
	}
	c.raw = raw
	if err := c.read(); err != nil {
		return err
	}
	return s.editMemoryManager(func(mm []byte) ([]byte, error) {
		mm, err := setOffsets(mm, offsets)
		if err != nil {
			return nil, err
		}
		return set(mm, "memory_ranges", json.RawMessage(`{"data":[]}`))
	})
}

func setZone(m []byte, total uint64, file string) ([]byte, error) {
	m, err := set(m, "size", 0)
	if err != nil {
		return nil, err
	}
	type zone struct {
		ID     string `json:"id"`
		Size   uint64 `json:"size"`
		File   string `json:"file"`
		Shared bool   `json:"shared"`
	}
	return set(m, "zones", []zone{{"mem0", total, file, false}})
}

// setOffsets gives each mapping the offset of the range with the same address;
// nil offsets mean 0 for all.
func setOffsets(mm []byte, offsets map[uint64]uint64) ([]byte, error) {
	return edit(mm, "guest_ram_mappings", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, e []byte) ([]byte, error) {
			var v mapping
			if err := json.Unmarshal(e, &v); err != nil {
				return nil, failure.New(failure.Damaged, "state: mapping: %w", err)
			}
			offset, ok := offsets[v.GPA]
			if !ok && offsets != nil {
				return nil, failure.New(failure.Incompatible, "no saved range for the mapping at %#x", v.GPA)
			}
			return set(e, "file_offset", offset)
		})
	})
}

// Normalise takes out what only the captured process had: the zone that maps a
// restore file becomes a plain size again, with file offsets 0, and host_mac
// (the TAP's own address, which v53.0 persists) goes.
func Normalise(c *Config, s *State) error {
	zones := c.view.Memory.Zones
	if len(zones) == 1 && zones[0].File != "" && !zones[0].Shared && c.view.Memory.Size == 0 {
		raw, err := edit(c.raw, "memory", func(m []byte) ([]byte, error) {
			m, err := drop(m, "zones")
			if err != nil {
				return nil, err
			}
			return set(m, "size", zones[0].Size)
		})
		if err != nil {
			return err
		}
		c.raw = raw
		if err := s.editMemoryManager(func(mm []byte) ([]byte, error) { return setOffsets(mm, nil) }); err != nil {
			return err
		}
	}
	raw, err := edit(c.raw, "net", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, n []byte) ([]byte, error) { return drop(n, "host_mac") })
	})
	if err != nil {
		return err
	}
	c.raw = raw
	return c.read()
}

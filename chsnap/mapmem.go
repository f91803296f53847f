package chsnap

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// MapMemory rewrites both documents so that the VMM maps file privately instead
// of reading it: memory.size becomes 0 with one zone of the whole size on that
// file, each mapping's file_offset is the position of its range in the file, and
// the range table is empty. Observed on v53.0 with plainly booted guests.
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
		return setZone(m, s.zoneID(), total, file)
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

// setZone makes plain memory one zone on the file; memory that already is one
// zone keeps it.
func setZone(m []byte, id string, total uint64, file string) ([]byte, error) {
	var v memoryView
	if err := json.Unmarshal(m, &v); err != nil {
		return nil, err
	}
	if len(v.Zones) == 1 {
		return edit(m, "zones", func(list []byte) ([]byte, error) {
			return editEach(list, func(_ int, z []byte) ([]byte, error) { return set(z, "file", file) })
		})
	}
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
	return set(m, "zones", []zone{{id, total, file, false}})
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

// Normalise removes what only the captured process had: files that RAM was mapped
// from privately, whose offsets become 0; the zone that a mapped restore made of
// plain memory, which becomes a plain size again; and host_mac (the TAP's own
// address, which v53.0 persists).
func Normalise(c *Config, s *State) error {
	mapped, err := c.normalise()
	if err != nil || !mapped {
		return err
	}
	return s.editMemoryManager(func(mm []byte) ([]byte, error) { return setOffsets(mm, nil) })
}

// normalise also reports whether RAM was mapped from a file.
func (c *Config) normalise() (mapped bool, err error) {
	raw, err := edit(c.raw, "net", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, n []byte) ([]byte, error) { return drop(n, "host_mac") })
	})
	if err == nil {
		raw, err = unconfined(raw)
	}
	if err != nil {
		return false, err
	}
	m := c.view.Memory
	mapped = slices.ContainsFunc(m.Zones, func(z zoneView) bool { return z.File != "" && !z.Shared })
	switch {
	case mapped && m.plainOnce():
		raw, err = edit(raw, "memory", func(b []byte) ([]byte, error) {
			b, err := drop(b, "zones")
			if err != nil {
				return nil, err
			}
			return set(b, "size", m.Zones[0].Size)
		})
	case mapped:
		raw, err = edit(raw, "memory", privateFiles)
	}
	if err != nil {
		return false, err
	}
	c.raw = raw
	return mapped, c.read()
}

// plainZone is the zone that the VMM makes of memory without any.
const plainZone = "mem0"

// plainOnce: the one zone is what setZone makes of plain memory.
func (m memoryView) plainOnce() bool {
	if len(m.Zones) != 1 || m.Size != 0 {
		return false
	}
	z := m.Zones[0]
	return z.ID == plainZone && !z.Shared && !z.Hugepages && z.HotplugSize == 0 && z.Hotplugged == 0 && z.Node == nil
}

// privateFiles drops the file of each zone of a memory that is not shared.
func privateFiles(m []byte) ([]byte, error) {
	return edit(m, "zones", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, b []byte) ([]byte, error) {
			var z zoneView
			if err := json.Unmarshal(b, &z); err != nil {
				return nil, err
			}
			if z.Shared {
				return b, nil
			}
			return drop(b, "file")
		})
	})
}

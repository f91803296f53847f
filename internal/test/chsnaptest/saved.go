package chsnaptest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// saved is a snapshot folder opened for editing: the two JSON files as generic
// trees, so that nothing in them is lost, and the memory-manager's part, which
// state.json holds as text inside its tree.
type saved struct {
	dir    string
	config map[string]any
	state  map[string]any
	memory map[string]any
}

func openSaved(dir string) (*saved, error) {
	s := &saved{dir: dir}
	if err := readJSON(filepath.Join(dir, "config.json"), &s.config); err != nil {
		return nil, err
	}
	if err := readJSON(filepath.Join(dir, "state.json"), &s.state); err != nil {
		return nil, err
	}
	data, err := s.memoryNode()
	if err != nil {
		return nil, err
	}
	text, _ := data["state"].(string)
	if err := decodeExact([]byte(text), &s.memory); err != nil {
		return nil, fmt.Errorf("decoding memory-manager state of %s: %w", dir, err)
	}
	return s, nil
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading snapshot: %w", err)
	}
	if err := decodeExact(b, into); err != nil {
		return fmt.Errorf("decoding %s: %w", path, err)
	}
	return nil
}

// decodeExact keeps numbers as written: state.json holds 64-bit ones that a float
// would change.
func decodeExact(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into)
}

// integer is a number of a tree, 0 when it is none.
func integer(v any) int64 {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return i
}

// memoryNode is the object whose "state" holds the memory-manager's JSON.
func (s *saved) memoryNode() (map[string]any, error) {
	node := s.state
	for _, key := range []string{"snapshots", "memory-manager", "snapshot_data"} {
		next, ok := node[key].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("state.json of %s has no %s", s.dir, key)
		}
		node = next
	}
	return node, nil
}

// ranges returns the table of memory-ranges as (gpa, length) pairs.
func (s *saved) ranges() [][2]int64 {
	table, _ := s.memory["memory_ranges"].(map[string]any)
	data, _ := table["data"].([]any)
	pairs := make([][2]int64, 0, len(data))
	for _, entry := range data {
		e, _ := entry.(map[string]any)
		pairs = append(pairs, [2]int64{integer(e["gpa"]), integer(e["length"])})
	}
	return pairs
}

// setSerial and setDisk change paths for a restore beside the source.
func (s *saved) setSerial(path string) {
	s.config["serial"] = map[string]any{"file": path, "mode": "File"}
}

func (s *saved) setDisk(path string) {
	disks, _ := s.config["disks"].([]any)
	if len(disks) > 0 {
		disks[0].(map[string]any)["path"] = path
	}
}

// mapFile makes the snapshot restore by mapping file privately: no plain memory,
// one zone of the whole size, a file offset per mapping and an empty table.
func (s *saved) mapFile(file string) {
	offsets, total := map[int64]int64{}, int64(0)
	for _, r := range s.ranges() {
		offsets[r[0]] = total
		total += r[1]
	}
	mappings, _ := s.memory["guest_ram_mappings"].([]any)
	for _, entry := range mappings {
		g := entry.(map[string]any)
		g["file_offset"] = offsets[integer(g["gpa"])]
	}
	s.memory["memory_ranges"] = map[string]any{"data": []any{}}
	memory := s.config["memory"].(map[string]any)
	memory["size"], memory["shared"], memory["hugepages"] = 0, false, false
	memory["zones"] = []any{map[string]any{"id": "mem0", "size": total, "file": file, "shared": false}}
}

// write stores the edited snapshot, without memory, in an existing folder.
func (s *saved) write(dir string) error {
	text, err := json.Marshal(s.memory)
	if err != nil {
		return err
	}
	node, err := s.memoryNode()
	if err != nil {
		return err
	}
	node["state"] = string(text)
	for name, tree := range map[string]any{"config.json": s.config, "state.json": s.state} {
		b, err := json.Marshal(tree)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("writing snapshot: %w", err)
		}
	}
	return nil
}

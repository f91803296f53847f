package chsnap

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// vmConfig draws a configuration of keys of the table, at any depth, with values
// of the kinds that the VMM writes. Paths are the host's.
func vmConfig(t *rapid.T) map[string]any {
	c := object(t, configKeys, "")
	c["payload"] = map[string]any{"kernel": "/host/kernel"}
	memory, _ := c["memory"].(map[string]any)
	if memory == nil {
		memory = map[string]any{}
	}
	for key, v := range memory {
		if _, number := v.(int); number {
			delete(memory, key) // sizes are drawn below
		}
	}
	memory["size"] = 64 << 20
	delete(memory, "zones")
	if n := rapid.IntRange(0, 2).Draw(t, "zones"); n > 0 {
		memory["size"] = 0
		var zones []any
		for i := range n {
			z := map[string]any{"id": rapid.SampledFrom([]string{"mem0", "a", "fast"}).Draw(t, "id") + strings.Repeat("x", i), "size": (64 << 20) / n}
			if rapid.Bool().Draw(t, "file") {
				z["file"] = "/host/zone"
			}
			zones = append(zones, z)
		}
		memory["zones"] = zones
	}
	c["memory"] = memory
	return c
}

func object(t *rapid.T, ks keys, path string) map[string]any {
	out := map[string]any{}
	for name, k := range ks {
		if rapid.IntRange(0, 3).Draw(t, "have "+path+name) > 0 || k.fate == refused && rapid.IntRange(0, 30).Draw(t, "refused") > 0 {
			continue
		}
		switch {
		case name == "id":
			out[name] = fmt.Sprintf("_%s%d", path, len(out))
		case isList(path + name):
			e := object(t, k.in, path+name+".")
			if rapid.Bool().Draw(t, "empty "+name) {
				out[name] = []any{}
			} else {
				out[name] = []any{e}
			}
		case k.in != nil:
			out[name] = object(t, k.in, path+name+".")
		default:
			out[name] = value(t, path+name)
		}
	}
	return out
}

func isList(path string) bool {
	switch path {
	case "disks", "net", "numa", "pci_segments", "rate_limit_groups", "landlock_rules", "cpus.affinity", "numa.distances", "disks.queue_affinity", "net.queue_affinity":
		return true
	}
	return false
}

// value of a plain key: what this program reads has its own kind.
func value(t *rapid.T, path string) any {
	_, name, _ := cutLast(path)
	switch name {
	case "src":
		return rapid.SampledFrom([]string{"/dev/urandom", "/host/secret"}).Draw(t, path)
	case "image_type":
		return rapid.SampledFrom([]string{"Raw", "Unknown", "Qcow2", "FlatVmdk"}).Draw(t, path)
	case "mode":
		return rapid.SampledFrom([]string{"Off", "Null", "File", "Tty", "Socket"}).Draw(t, path)
	case "hotplug_method":
		return "VirtioMem"
	case "fds":
		return []int{-1}
	case "readonly", "shared", "hugepages", "vhost_user", "backing_files", "landlock_enable", "iommu", "gdb", "pvpanic", "watchdog":
		return rapid.Bool().Draw(t, path)
	case "boot_vcpus", "num_queues", "mtu", "hotplug_size", "hotplugged_size", "hugepage_size", "size", "host_numa_node":
		return rapid.IntRange(0, 4).Draw(t, path)
	case "path", "socket", "file", "tap", "kernel", "firmware", "initramfs", "vhost_socket", "serial", "mac", "access":
		return "/host/" + name
	}
	return rapid.SampledFrom([]any{1, true, "word", nil, []int{1}}).Draw(t, path)
}

func cutLast(path string) (before, after string, found bool) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:], true
	}
	return "", path, false
}

// stateOf is the state of a VM of 64 MiB whose memory is of these zones.
func stateOf(t *rapid.T, c *Config) *State {
	zone := plainZone
	if z := c.view.Memory.Zones; len(z) > 0 {
		zone = z[0].ID
	}
	inner, _ := json.Marshal(fmt.Sprintf(`{"memory_ranges":{"data":[{"gpa":0,"length":67108864}]},"guest_ram_mappings":[{"gpa":0,"size":67108864,"zone_id":%q}]}`, zone))
	s, err := ParseState([]byte(`{"snapshots":{"memory-manager":{"snapshot_data":{"state":` + string(inner) + `}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhatIsJudgedToComeBackDoes, for any configuration: what Judge passes can be
// rewritten and mapped, names nothing of the source's host any more, and can be
// saved and judged again, as often as one likes. What it refuses is refused by
// the same class, and says what to do.
func TestWhatIsJudgedToComeBackDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, err := json.Marshal(vmConfig(t))
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig(doc)
		if err != nil {
			t.Fatalf("%v: %s", err, doc)
		}
		w := Rewrite{SerialFile: "/own/serial", Vsock: "/own/vsock", Kernel: "/own/kernel", Disks: map[string]DiskFile{}, Taps: map[string]string{}}
		for _, d := range c.Disks() {
			w.Disks[d.ID] = DiskFile{"/own/disk", d.Readonly}
		}
		for _, n := range c.Nets() {
			w.Taps[n.ID] = "own0"
		}
		for round := range 3 {
			s := stateOf(t, c)
			before, state := string(c.Bytes()), string(s.Bytes())
			err := Judge(c, s, w)
			if string(c.Bytes()) != before || string(s.Bytes()) != state {
				t.Fatal("judging changed a document")
			}
			if preflight := Judge(c, nil, w); (preflight == nil) != (err == nil) {
				t.Fatalf("before the capture %v, after it %v: %s", preflight, err, before)
			}
			if err != nil {
				if round > 0 {
					t.Fatalf("what was rebuilt cannot be saved again: %v: %s", err, before)
				}
				if !errors.Is(err, failure.Incompatible) || failure.HintOf(err) == "" {
					t.Fatalf("%v (hint %q)", err, failure.HintOf(err))
				}
				return
			}
			if err := errors.Join(Normalise(c, s), c.Rewrite(w)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(c.Bytes()), "/host/") && !strings.Contains(before, `"serial":"/host/serial"`) && !strings.Contains(before, `/host/mac`) {
				t.Fatalf("a path of the source is left: %s", c.Bytes())
			}
			bootsAgain(t, c, w)
			if c.MapRefusal() == "" {
				if err := MapMemory(c, s, "/own/ram"); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// bootsAgain: a machine names no file of anybody, is itself the machine of what is
// booted of it, and boots as what a restore rewrites.
func bootsAgain(t *rapid.T, c *Config, w Rewrite) {
	m, err := c.Machine()
	if err != nil {
		t.Fatalf("no machine of what can be rebuilt: %v: %s", err, c.Bytes())
	}
	if strings.Contains(string(m.Bytes()), "/own/") {
		t.Fatalf("a path is left in the machine: %s", m.Bytes())
	}
	booted := m.Clone()
	if err := errors.Join(booted.Boot(Boot{Rewrite: w, Cmdline: "quiet"}), c.Boot(Boot{Rewrite: w, Cmdline: "quiet"})); err != nil {
		t.Fatal(err)
	}
	if was, is := sorted(t, c.Bytes()), sorted(t, booted.Bytes()); was != is {
		t.Fatalf("restored %s\nbooted   %s", was, is)
	}
	again, err := booted.Machine()
	if err == nil {
		m.raw, err = edit(m.raw, "payload", func(p []byte) ([]byte, error) { return set(p, "cmdline", "quiet") })
	}
	if err != nil || sorted(t, again.Bytes()) != sorted(t, m.Bytes()) {
		t.Fatalf("machine %s, booted and saved %s (%v)", m.Bytes(), again.Bytes(), err)
	}
}

// sorted is a document with its keys in order.
func sorted(t *rapid.T, b []byte) string {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

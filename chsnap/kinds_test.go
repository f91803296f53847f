package chsnap

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestKindsOfMemory says which guests a private mapping is wrong for; any of
// them can be pushed.
func TestKindsOfMemory(t *testing.T) {
	for _, c := range []struct{ config, refusal string }{
		{`{"memory":{"size":1073741824}}`, ""},
		{`{"memory":{"size":0,"zones":[{"id":"mem0","size":1073741824,"file":"/f","shared":false}]}}`, ""},
		{`{"memory":{"size":1073741824,"shared":true}}`, "shared"},
		{`{"memory":{"size":1073741824,"hugepages":true}}`, "huge pages"},
		{`{"memory":{"size":1073741824,"hotplug_size":1073741824,"hotplug_method":"VirtioMem"}}`, "hot-plugged"},
		{`{"memory":{"size":0,"zones":[{"id":"a","size":4096},{"id":"b","size":4096}]}}`, "zones"},
		{`{"memory":{"size":0,"zones":[{"id":"a","size":4096,"hugepages":true}]}}`, "huge pages"},
		{`{"memory":{"size":1073741824},"balloon":{"size":0,"free_page_reporting":true}}`, "balloon"},
	} {
		cfg, err := ParseConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		why := cfg.MapRefusal()
		if (c.refusal == "") != (why == "") || !strings.Contains(why, c.refusal) {
			t.Errorf("%s: refusal %q, want one about %q", c.config, why, c.refusal)
		}
		if why := cfg.StreamRefusal(); why != "" {
			t.Errorf("%s: cannot be pushed: %s", c.config, why)
		}
	}
	cfg, err := ParseConfig([]byte(`{"net":[{"id":"_net0","fds":[-1]}]}`))
	if err != nil || cfg.StreamRefusal() == "" {
		t.Errorf("a network that is a descriptor can be pushed (%v)", err)
	}
}

// TestMigrationConfigKeepsNumbersAndEmptiesTheTable: 64-bit numbers would not
// survive a float.
func TestMigrationConfigKeepsNumbersAndEmptiesTheTable(t *testing.T) {
	mm := `{"memory_ranges":{"data":[{"gpa":0,"length":4096}]},"guest_ram_mappings":[],"top":18446744073709551615}`
	root := `{"clock":{},"common_cpuid":[{"function":2147483648}]}`
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	s, err := ParseState([]byte(`{"snapshots":{"memory-manager":{"snapshot_data":{"state":` + quote(mm) + `}}},"snapshot_data":{"state":` + quote(root) + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig([]byte(`{"memory":{"size":4096},"later":18446744073709551615}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := MigrationConfig(c, s)
	want := `{"vm_config":{"memory":{"size":4096},"later":18446744073709551615},"common_cpuid":[{"function":2147483648}],` +
		`"memory_manager_data":{"memory_ranges":{"data":[]},"guest_ram_mappings":[],"top":18446744073709551615}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
}

package chsnap

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// folders are documents written by real VMMs.
func folders(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob("testdata/[^f]*/*")
	if err != nil || len(found) < 6 {
		t.Fatalf("fixtures: %v %v", found, err)
	}
	return found
}

func documents(t testing.TB, folder string) (*Config, *State, []byte, []byte) {
	t.Helper()
	cb, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := os.ReadFile(filepath.Join(folder, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(cb)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseState(sb)
	if err != nil {
		t.Fatal(err)
	}
	return c, s, cb, sb
}

func TestUnchangedDocumentsStayByteForByte(t *testing.T) {
	for _, f := range folders(t) {
		c, s, cb, sb := documents(t, f)
		if !bytes.Equal(c.Bytes(), cb) || !bytes.Equal(s.Bytes(), sb) {
			t.Errorf("%s: changed by reading", f)
		}
	}
}

// flatten lists every leaf of a document by its path, so that a comparison
// names what changed and nothing else can hide.
func flatten(t *testing.T, b []byte) map[string]string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch x := v.(type) {
		case map[string]any:
			for k, e := range x {
				walk(path+"/"+k, e)
			}
		case []any:
			for i, e := range x {
				walk(path+"/"+string(rune('0'+i)), e)
			}
		default:
			leaf, _ := json.Marshal(x)
			out[path] = string(leaf)
		}
	}
	walk("", v)
	return out
}

func changes(before, after map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range after {
		if before[k] != v {
			out[k] = v
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			out[k] = "gone"
		}
	}
	return out
}

func TestRewriteChangesOnlyWhatItNames(t *testing.T) {
	c, _, before, _ := documents(t, "testdata/v53.0/devices")
	err := c.Rewrite(Rewrite{
		Disks: map[string]DiskFile{"_disk0": {Path: "/new/disk-0.raw"}}, Kernel: "/new/kernel", SerialFile: "/new/serial",
		Taps: map[string]string{"_net1": "tap9"}, Vsock: "/new/vsock",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/disks/0/path": `"/new/disk-0.raw"`, "/payload/kernel": `"/new/kernel"`, "/serial/file": `"/new/serial"`,
		"/net/0/tap": `"tap9"`, "/net/0/host_mac": "gone", "/vsock/socket": `"/new/vsock"`,
	}
	if diff := cmp.Diff(want, changes(flatten(t, before), flatten(t, c.Bytes()))); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestRewriteRefusesForeignPaths(t *testing.T) {
	for _, field := range []string{
		`"pmem":[{"file":"/dev/sda"}]`, `"fs":[{"socket":"/x"}]`, `"devices":[{"path":"/sys/bus/pci"}]`,
		`"tpm":{"socket":"/x"}`, `"vdpa":[{"path":"/dev/x"}]`, `"net":[{"id":"_net0","vhost_user":true}]`,
		`"rng":{"src":"/etc/shadow"}`, `"vsock":{"cid":3,"socket":"/x"}`,
		`"memory":{"size":0,"zones":[{"id":"z","size":4096,"file":"/etc/shadow","shared":true}]}`,
		`"disks":[{"id":"_disk0","path":"/d","readonly":true,"image_type":"FlatVmdk"}]`,
		`"disks":[{"id":"_disk0","path":"/d","extent_files":["/etc/shadow"]}]`, `"memory":{"size":1,"swap":{"file":"/etc/shadow"}}`,
		`"cpus":{"nested":{"file":"/etc/shadow"}}`, `"platform":{"oem_file":"/etc/shadow"}`, `"pvmemcontrol":{"x":1}`,
		`"disks":[{"id":"_disk7","path":"/etc/shadow"}]`,
		`"user_devices":[{"socket":"/x"}]`, `"ivshmem":{"path":"/dev/shm/x"}`, `"generic_vhost_user":[{"socket":"/x"}]`,
		`"preserved_fds":[3]`, `"not_invented_yet":{"path":"/etc/shadow"}`,
		`"payload":{"igvm":"/etc/shadow"}`, `"payload":{"kernel":"/k","host_data":"/etc/shadow"}`,
		`"disks":[{"id":"_disk0","path":"/d","image_type":"Qcow2"}]`, `"disks":[{"id":"_disk0","path":"/d","readonly":true,"image_type":"Qcow2"}]`,
		`"disks":[{"id":"_disk0","path":"/d","image_type":"Raw","backing_files":true}]`,
		`"disks":[{"id":"_disk0","path":"/d","readonly":true,"image_type":"Qcow2","backing_files":true}]`,
		`"disks":[{"id":"_disk0","path":"/d","vhost_user":true,"vhost_socket":"/x"}]`,
		`"net":[{"id":"_net7","tap":"eth0"}]`, `"net":[{"id":"_net7","vhost_socket":"/x"}]`,
		// Go reads both of these keys, the VMM the first.
		`"rng":{"src":"/etc/shadow","SRC":"/dev/urandom"}`, `"rng":{"src":"/etc/shadow","\u017frc":"/dev/urandom"}`,
		`"memory":{"size":0,"zones":[{"id":"z","size":4096,"file":"/etc/shadow"}],"Zones":[]}`,
		`"disks":[{"id":"_disk0","path":"/d","image_type":"Qcow2","backing_files":true,"Backing_files":false,"Image_type":"Raw"}]`,
		`"disks":[{"id":"_disk0","path":"/d","Image_type":"Raw"}]`,
		`"disks":[{"id":"_disk0","path":"/d","vhost_socket":"/x","VHOST_SOCKET":""}]`,
	} {
		if !strings.HasPrefix(field, `"payload"`) {
			field = `"payload":{"kernel":"/k"},` + field
		}
		c, err := ParseConfig([]byte(`{` + field + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Rewrite(Rewrite{Kernel: "/k", Disks: map[string]DiskFile{"_disk0": {Path: "/new"}}}); !errors.Is(err, failure.Incompatible) {
			t.Errorf("%s: %v, want a refusal", field, err)
		}
	}
}

// TestRewriteLeavesNoPathOfTheSource: whatever a hostile document says of
// consoles, boot files, disks and sockets, only the new VM's own are opened.
func TestRewriteLeavesNoPathOfTheSource(t *testing.T) {
	c, err := ParseConfig([]byte(`{"payload":{"kernel":"/host/k","firmware":"/host/f","initramfs":"/host/i","cmdline":"quiet"},
		"disks":[{"id":"a","path":"/host/d"},{"id":"b","path":"/host/e","image_type":"Unknown"},{"id":"c","path":"/host/ro","readonly":false,"image_type":"Raw"},{"id":"d","path":"/host/x","readonly":true}],
		"serial":{"mode":"Socket","socket":"/host/s","file":"/host/f"},"console":{"mode":"File","file":"/host/c"},
		"debug_console":{"mode":"Socket","socket":"/host/dc","file":"/host/df"},"vsock":{"cid":3,"socket":"/host/v"},
		"memory":{"size":0,"zones":[{"id":"z","size":4096,"file":"/host/z"},{"id":"y","size":4096,"file":"/host/y"}]},"gdb":true,
		"landlock_enable":true,"landlock_rules":[{"path":"/host/rule","access":"rw"}],
		"pmem":null,"devices":[],"tpm":null,"later":false}`))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Rewrite(Rewrite{
		Disks: map[string]DiskFile{"a": {Path: "/own/a"}, "b": {Path: "/own/b", Readonly: true}, "c": {Path: "/own/c", Readonly: true}, "d": {Path: "/own/d"}}, Kernel: "/own/k", SerialFile: "/own/serial", Vsock: "/own/v",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := string(c.Bytes())
	if strings.Contains(got, "/host/") {
		t.Errorf("a path of the source is left: %s", got)
	}
	for _, want := range []string{
		`{"id":"a","path":"/own/a","image_type":"Raw"}`, `{"id":"b","path":"/own/b","image_type":"Raw","readonly":true}`,
		`{"id":"c","path":"/own/c","readonly":true,"image_type":"Raw"}`, `{"id":"d","path":"/own/d","readonly":false,"image_type":"Raw"}`, `"gdb":false`, `"zones":[{"id":"z","size":4096},{"id":"y","size":4096}]`, `"/own/k"`, `"/own/serial"`, `"/own/v"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}

// TestAConsoleThatNobodyNamesIsMuted: without a word the VMM gives the guest its
// own terminal, which is its log.
func TestAConsoleThatNobodyNamesIsMuted(t *testing.T) {
	for console, want := range map[string]string{
		``: `"Null"`, `,"console":{}`: `"Null"`, `,"console":{"mode":"Tty"}`: `"Null"`, `,"console":{"mode":"Off"}`: `"Off"`,
	} {
		c, err := ParseConfig([]byte(`{"payload":{"kernel":"/k"}` + console + `}`))
		if err == nil {
			err = c.Rewrite(Rewrite{Kernel: "/k"})
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := string(c.Bytes()); !strings.Contains(got, `"console":{"mode":`+want+`}`) {
			t.Errorf("%s: %s", console, got)
		}
	}
}

func TestRewriteDropsWhatOnlyTheSourcesTAPHad(t *testing.T) {
	c, err := ParseConfig([]byte(`{"payload":{"kernel":"/k"},"console":{"mode":"Off"},"net":[{"id":"a","ip":"10.0.0.1","mask":"255.0.0.0","fds":[-1],"mac":"02:00:00:00:00:01"},{"id":"b","tap":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Rewrite(Rewrite{Kernel: "/k", Taps: map[string]string{"a": "tap0", "b": ""}}); err != nil {
		t.Fatal(err)
	}
	if got, want := string(c.Bytes()), `{"payload":{"kernel":"/k"},"console":{"mode":"Off"},"net":[{"id":"a","mac":"02:00:00:00:00:01","tap":"tap0"},{"id":"b"}]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMappedDocumentsNormaliseBack(t *testing.T) {
	for _, f := range []string{"testdata/v53.0/plain-128m", "testdata/v53.0/two-ranges-4g", "testdata/head-ae44c2971/two-ranges-4g"} {
		c, s, _, _ := documents(t, f)
		ranges, size := s.MemoryRanges(), c.MemoryBytes()
		if err := MapMemory(c, s, "/cache/ram"); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if got := c.MemoryBytes(); got != size || len(s.MemoryRanges()) != 0 || !strings.Contains(string(c.Bytes()), `"file":"/cache/ram"`) {
			t.Errorf("%s mapped: %d bytes, ranges %v", f, got, s.MemoryRanges())
		}
		mm, err := s.memoryManager()
		if err != nil {
			t.Fatal(err)
		}
		if len(ranges) == 2 && !strings.Contains(string(mm), `"file_offset":3221225472`) {
			t.Errorf("%s: the second range is not at its offset: %s", f, mm)
		}
		if err := Normalise(c, s); err != nil {
			t.Fatal(err)
		}
		if c.MapRefusal() != "" || strings.Contains(string(c.Bytes()), "zones") || c.MemoryBytes() != size {
			t.Errorf("%s did not come back: %s", f, c.Bytes())
		}
	}
}

func TestUnsupportedDevicesAreNamed(t *testing.T) {
	for field, device := range map[string]string{
		`"devices":[{"path":"/x"}]`: "VFIO device", `"fs":[{"tag":"x"}]`: "virtio-fs", `"vdpa":[{"path":"/x"}]`: "vDPA device",
		`"memory":{"size":1,"hotplug_method":"Acpi","hotplugged_size":4096}`:          "hot-plugged memory",
		`"disks":[{"id":"_disk0","path":"/x","image_type":"Qcow2"}]`:                  "disk _disk0",
		`"memory":{"size":0,"zones":[{"id":"z","size":1,"file":"/x","shared":true}]}`: "memory zone z",
		`"net":[{"id":"_net0","vhost_user":true}]`:                                    "network _net0",
	} {
		c, err := ParseConfig([]byte(`{` + field + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got := c.Unsupported()
		if len(got) != 1 || got[0].Device != device || got[0].Remedy == "" {
			t.Errorf("%s: %+v", field, got)
		}
	}
	for _, f := range folders(t) {
		if c, _, _, _ := documents(t, f); len(c.Unsupported()) != 0 {
			t.Errorf("%s: %+v", f, c.Unsupported())
		}
	}
}

func stateWith(table string) []byte {
	inner, _ := json.Marshal(`{"memory_ranges":{"data":` + table + `}}`)
	return []byte(`{"snapshots":{"memory-manager":{"snapshot_data":{"state":` + string(inner) + `}}}}`)
}

func TestAbsurdTablesAreDamage(t *testing.T) {
	for _, table := range []string{
		`[{"gpa":0,"length":0}]`, `[{"gpa":1,"length":4096}]`, `[{"gpa":0,"length":4097}]`,
		`[{"gpa":0,"length":8192},{"gpa":4096,"length":4096}]`, `[{"gpa":18446744073709547520,"length":8192}]`,
		`[{"gpa":0,"length":9223372036854771712}]`, `"x"`,
	} {
		if _, err := ParseState(stateWith(table)); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: %v", table, err)
		}
	}
	if s, err := ParseState(stateWith(`[{"gpa":4294967296,"length":4096},{"gpa":0,"length":4096}]`)); err != nil || s.MemoryRanges()[0].GPA != 1<<32 {
		t.Errorf("the order of the table was not kept: %v", err)
	}
}

func TestReadDirRefusesHostileFolders(t *testing.T) {
	config, err := os.ReadFile("testdata/v53.0/plain-128m/config.json")
	if err != nil {
		t.Fatal(err)
	}
	good := func(t *testing.T) string {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"config.json": config, "state.json": stateWith(`[{"gpa":0,"length":8192}]`), "memory-ranges": make([]byte, 8192)} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	if _, err := ReadDir(good(t)); err != nil {
		t.Fatalf("a good folder: %v", err)
	}
	for name, harm := range map[string]func(dir string) error{
		"short memory": func(d string) error { return os.Truncate(d+"/memory-ranges", 4096) },
		"long memory":  func(d string) error { return os.Truncate(d+"/memory-ranges", 12288) },
		"no memory":    func(d string) error { return os.Remove(d + "/memory-ranges") },
		"memory is a link": func(d string) error {
			return errors.Join(os.Rename(d+"/memory-ranges", d+"/m"), os.Symlink("m", d+"/memory-ranges"))
		},
		"config is a link": func(d string) error {
			return errors.Join(os.Rename(d+"/config.json", d+"/c"), os.Symlink("c", d+"/config.json"))
		},
		"state is no JSON":  func(d string) error { return os.WriteFile(d+"/state.json", []byte("{"), 0o600) },
		"state is a folder": func(d string) error { return errors.Join(os.Remove(d+"/state.json"), os.Mkdir(d+"/state.json", 0o700)) },
		"state is enormous": func(d string) error { return os.Truncate(d+"/state.json", documentLimit+1) },
		"config is enormous": func(d string) error {
			return os.WriteFile(d+"/config.json", append([]byte(`{"disks":[`), append(bytes.Repeat([]byte("{},"), configLimit/3), "{}]}"...)...), 0o600)
		},
		"key stands twice": func(d string) error { return os.WriteFile(d+"/config.json", []byte(`{"disks":[],"disks":[]}`), 0o600) },
		"two disks of one id": func(d string) error {
			return os.WriteFile(d+"/config.json", []byte(`{"disks":[{"id":"a"},{"id":"a"}]}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := good(t)
			if err := harm(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadDir(dir); !errors.Is(err, failure.Damaged) {
				t.Errorf("got %v, want damage", err)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, dir := range folders(f) {
		_, _, cb, _ := documents(f, dir)
		f.Add(cb)
	}
	f.Add([]byte(`{"rng":{"src":"/etc/shadow","SRC":"/dev/urandom"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Bytes(), b) {
			t.Error("reading changed the bytes")
		}
		c.Unsupported()
		w := Rewrite{SerialFile: "/own/serial", Kernel: "/own/kernel", Vsock: "/own/vsock", Disks: map[string]DiskFile{}, Taps: map[string]string{}}
		for _, d := range c.Disks() {
			w.Disks[d.ID] = DiskFile{"/own/disk", len(d.ID)%2 == 0}
		}
		for _, n := range c.Nets() {
			w.Taps[n.ID] = "own0"
		}
		if c.Rewrite(w) == nil {
			opensOnlyItsOwn(t, c.Bytes())
		}
	})
}

// opensOnlyItsOwn reads a rewritten configuration as the VMM does, keys exactly
// as they are spelt, and looks at all that it would open.
func opensOnlyItsOwn(t *testing.T, b []byte) {
	t.Helper()
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatalf("rewriting made no JSON: %s", b)
	}
	for _, path := range []string{
		"disks/*/path", "disks/*/vhost_socket", "net/*/tap", "net/*/vhost_socket", "payload/kernel", "payload/firmware", "payload/initramfs",
		"payload/igvm", "rng/src", "serial/file", "serial/socket", "console/file", "console/socket", "debug_console/file",
		"debug_console/socket", "vsock/socket", "memory/zones/*/file",
	} {
		for _, v := range at(doc, strings.Split(path, "/")) {
			s, _ := v.(string)
			if s != "" && !strings.HasPrefix(s, "/own/") && s != "own0" && !slices.Contains(entropy, s) {
				t.Errorf("%s is %q in %s", path, s, b)
			}
		}
	}
	for _, d := range at(doc, []string{"disks", "*"}) {
		d, _ := d.(map[string]any)
		if d["backing_files"] == true || d["image_type"] != "Raw" {
			t.Errorf("disk %v may be read as another format", d)
		}
		if id, _ := d["id"].(string); len(id)%2 == 0 && d["readonly"] != true {
			t.Errorf("disk %v is written to", d)
		}
	}
}

// at gives the values at a path, "*" standing for each element of an array.
func at(v any, path []string) []any {
	if len(path) == 0 {
		return []any{v}
	}
	var out []any
	switch v := v.(type) {
	case map[string]any:
		if inner, ok := v[path[0]]; ok {
			out = at(inner, path[1:])
		}
	case []any:
		for _, e := range v {
			if path[0] == "*" {
				out = append(out, at(e, path[1:])...)
			}
		}
	}
	return out
}

func FuzzParseState(f *testing.F) {
	f.Add(stateWith(`[{"gpa":0,"length":8192}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		for _, r := range s.MemoryRanges() {
			if r.GPA+r.Length < r.GPA || r.Length == 0 {
				t.Errorf("%+v was let through", r)
			}
		}
	})
}

func FuzzSetAndDrop(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[2],"c":{}}`), "b")
	f.Add([]byte(`{ }`), "a")
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		if !json.Valid(b) {
			return
		}
		if _, err := members(b); err != nil || !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
			return
		}
		set1, err := set(b, key, "value")
		if err != nil {
			return
		}
		dropped, err := drop(set1, key)
		if err != nil || !json.Valid(set1) || !json.Valid(dropped) {
			t.Errorf("%q %q: %s %s %v", b, key, set1, dropped, err)
		}
	})
}

// TestTSCIsReadAndDropped from the state of every CPU, and nothing else changes.
func TestTSCIsReadAndDropped(t *testing.T) {
	for _, f := range folders(t) {
		_, s, _, before := documents(t, f)
		khz, err := s.TSCKHz()
		if err != nil || khz < 1_000_000 || khz > 9_000_000 {
			t.Errorf("%s: %d kHz (%v)", f, khz, err)
		}
		if err := s.DropTSC(); err != nil {
			t.Fatal(err)
		}
		if khz, err = s.TSCKHz(); err != nil || khz != 0 {
			t.Errorf("%s: %d kHz are left (%v)", f, khz, err)
		}
		want := regexp.MustCompile(`(\\"tsc_khz\\":)[0-9]+`).ReplaceAllString(string(before), "${1}null")
		if got := string(s.Bytes()); got != want {
			t.Errorf("%s: more was changed than the frequency", f)
		}
	}
	s, err := ParseState(stateWith(`[{"gpa":0,"length":4096}]`))
	if err != nil {
		t.Fatal(err)
	}
	if khz, err := s.TSCKHz(); khz != 0 || err != nil {
		t.Errorf("a state without CPUs: %d kHz (%v)", khz, err)
	}
	if err := s.DropTSC(); err != nil {
		t.Error(err)
	}
}

func TestAVMWithoutKernelIsRestoredWithOneThatNothingBootsFrom(t *testing.T) {
	for _, saved := range []string{`{"a":1}`, `{"payload":null,"a":1}`, `{"payload":{},"a":1}`, `{"payload":{"kernel":"/dev/null"},"a":1}`, `{"payload":{"kernel":"/host/k","initramfs":"/host/i"},"a":1}`} {
		c, err := ParseConfig([]byte(saved))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetPayload("", "", ""); err != nil {
			t.Fatal(err)
		}
		if got := string(c.Bytes()); got != `{"a":1}` {
			t.Errorf("%s becomes %s", saved, got)
		}
		if c.raw, err = (Rewrite{}).payload(c.raw); err == nil {
			err = c.read()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := string(c.Bytes()); got != `{"a":1,"payload":{"kernel":"/dev/null"}}` {
			t.Errorf("%s is restored as %s", saved, got)
		}
		if p := c.Payload(); p != (Payload{}) {
			t.Errorf("%s is said to boot from %+v", saved, p)
		}
	}
}

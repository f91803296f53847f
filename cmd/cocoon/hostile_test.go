package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// hostileStore is a store in which each text that somebody else may have chosen
// stands once as text: of one snapshot the VM's name, of the next one a disk's
// serial, and so on through every document. Folders hold files of such names.
type hostileStore struct {
	t         *testing.T
	root, run string
	text      string
	script    string // a VMM that says the text

	snapshots, vms   []string // ids
	folders, layouts []string // to be imported
	registry         string   // refuses everything in words of the text
	made             int

	// sample, where it is set, takes a part of all places and verbs: one input of a
	// fuzzer has ten seconds.
	sample *rand.Rand
}

// taken tells whether one in n is looked at.
func (s *hostileStore) taken(n int) bool { return s.sample == nil || s.sample.IntN(n) == 0 }

// seedStore saves a VM on the simulator and gives the folder of the store and an
// export of the snapshot, for all that are made hostile.
func seedStore(tb testing.TB) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("cocoon refuses to run without root")
	}
	dir, err := os.MkdirTemp("", "cs") // short: socket paths end at 108 bytes
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := guest.WriteFile(filepath.Join(dir, "guest.elf")); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, 4<<20), 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, line := range []string{
		"image import disk.raw --name base",
		"vm create web --kernel guest.elf --memory 64M --disk disk.raw --label a=b --start",
		"snapshot create web one --label a=b --description d",
		"vm suspend web",
		"vm create other --kernel guest.elf --memory 64M --image base --label a=b",
		"snapshot export one -o folder",
		"snapshot export one -o layout --format oci",
	} {
		c := exec.Command("cocoon", strings.Fields(line)...)
		c.Dir = dir
		c.Env = append(os.Environ(), "COCOON_ROOT_DIR="+filepath.Join(dir, "root"), "COCOON_RUN_DIR="+filepath.Join(dir, "run"),
			"COCOON_HYPERVISOR="+chsnaptest.Build(tb), "COCOON_CACHE_AHEAD=off")
		if out, err := c.CombinedOutput(); err != nil {
			tb.Fatalf("cocoon %s: %v: %s", line, err, out)
		}
	}
	return dir
}

// inMemory is a folder whose fsyncs cost nothing: a thousand commands run there.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "cocoon-hostile-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newHostileStore makes one of a seed.
func newHostileStore(t *testing.T, seed, text string, sample *rand.Rand) *hostileStore {
	t.Helper()
	dir := filepath.Join(inMemory(t), "s")
	if out, err := exec.Command("cp", "-a", seed, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := &hostileStore{t: t, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run"), text: text, script: filepath.Join(dir, "vmm"), sample: sample}
	t.Cleanup(func() { leaveNoRooms(s.root) })
	script := []byte("#!/bin/sh\ncat <<'END'\ncloud-hypervisor v53.0.0" + strings.ReplaceAll(text, "\x00", "") + "\nEND\n[ \"$1\" = --version ]\n")
	if err := programtest.Write(s.script, script); err != nil {
		t.Fatal(err)
	}
	s.hostileSnapshots()
	s.hostileVMs()
	for _, path := range s.find("images", "*.json") {
		s.each(s.read(path), func(_ string, doc []byte) {
			s.write(filepath.Join(s.root, "images", s.id()+".json"), doc, 0o600)
		})
	}
	s.hostileNames()
	return s
}

func (s *hostileStore) hostileSnapshots() {
	for _, path := range s.find("snapshots", "*", "manifest.json")[:1] {
		dir := filepath.Dir(path)
		manifest, meta := s.read(path), s.read(filepath.Join(dir, "meta.json"))
		spec := s.blob(manifest, "config")
		config := s.blob(spec, "chConfig")
		s.each(spec, func(where string, doc []byte) { s.snapshot(manifest, meta, doc, where) })
		s.each(meta, func(where string, doc []byte) { s.snapshot(manifest, doc, spec, where) })
		s.each(manifest, func(where string, doc []byte) { s.snapshot(doc, meta, spec, where) })
		s.each(config, func(where string, doc []byte) {
			d := s.putBlob(doc)
			sp := s.set(spec, "chConfig", d)
			old := s.field(spec, "chConfig").(string)
			s.snapshot([]byte(strings.ReplaceAll(string(manifest), old, d)), meta, sp, where)
		})
	}
}

// snapshot publishes one by hand, with an id of its own unless that is what is
// hostile.
func (s *hostileStore) snapshot(manifest, meta, spec []byte, where string) {
	id := s.id()
	if where != "id" {
		spec = s.set(spec, "id", id)
	}
	dir := filepath.Join(s.root, "snapshots", id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	var m struct {
		Config map[string]any `json:"config"`
	}
	if json.Unmarshal(manifest, &m) == nil && m.Config != nil && !strings.HasPrefix(where, "config.") {
		m.Config["digest"], m.Config["size"] = s.putBlob(spec), len(spec)
		manifest = s.set(manifest, "config", m.Config)
	}
	s.write(filepath.Join(dir, "manifest.json"), manifest, 0o400)
	s.write(filepath.Join(dir, "meta.json"), meta, 0o600)
	s.snapshots = append(s.snapshots, id)
}

func (s *hostileStore) hostileVMs() {
	for _, path := range s.find("vms", "*", "record.json") {
		record := s.set(s.read(path), "state", "stopped")
		s.each(record, func(where string, doc []byte) { s.vm(doc, nil, where) })
		if suspended, err := os.ReadFile(filepath.Join(filepath.Dir(path), "suspend.json")); err == nil {
			s.each(suspended, func(where string, doc []byte) { s.vm(record, doc, where) })
		}
		for _, vmm := range s.findIn(s.run, "*", "vmm.json") {
			s.each(s.read(vmm), func(where string, doc []byte) {
				s.write(filepath.Join(s.run, s.vm(record, nil, ""), "vmm.json"), doc, 0o600)
			})
		}
	}
}

func (s *hostileStore) vm(record, suspend []byte, where string) string {
	id := s.id()
	if where != "id" {
		record = s.set(record, "id", id)
	}
	if where != "name" {
		record = s.set(record, "name", "vm-"+id[24:])
	}
	for _, dir := range []string{filepath.Join(s.root, "vms", id), filepath.Join(s.run, id)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write(filepath.Join(s.root, "vms", id, "record.json"), record, 0o600)
	if suspend != nil {
		s.write(filepath.Join(s.root, "vms", id, "suspend.json"), suspend, 0o600)
	}
	s.write(filepath.Join(s.run, id, "serial.log"), []byte(s.text), 0o600)
	s.vms = append(s.vms, id)
	return id
}

// hostileNames puts files and folders of that name everywhere.
func (s *hostileStore) hostileNames() {
	name := strings.NewReplacer("/", "", "\x00", "").Replace(s.text)
	name = name[:min(len(name), 200)]
	if name == "" || name == "." || name == ".." {
		return
	}
	folders := []string{s.run}
	for _, f := range []string{"", "snapshots", "vms", "images", "images/blobs/sha256", "blobs/sha256", "ingest", "leases", "names", "trash", "cache", "cache/memory", "journals", "pins", "network"} {
		folders = append(folders, filepath.Join(s.root, f))
	}
	for _, dir := range folders {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		s.write(filepath.Join(dir, name+".json"), []byte("{}"), 0o600)
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !os.IsExist(err) {
			s.t.Fatal(err)
		}
	}
}

// each calls f once for every place of a document at which text, a number or a
// list stands, with a document that has the hostile text, a number beyond all
// bounds, or null there; of a list its first element stands for all.
func (s *hostileStore) each(doc []byte, f func(where string, doc []byte)) {
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		s.t.Fatalf("%v: %s", err, doc)
	}
	visit(v, func(any) {}, "", func(where string, old any, put func(any)) {
		hostile := []any{nil}
		switch old.(type) {
		case string:
			hostile = []any{s.text}
		case float64:
			hostile = []any{json.Number("9223372036854775807"), json.Number("-1e308")}
		case map[string]any:
			hostile = []any{map[string]any{s.text: s.text}, nil}
		}
		for _, x := range hostile {
			if !s.taken(40) {
				continue
			}
			put(x)
			b, err := json.Marshal(v)
			if err != nil {
				s.t.Fatal(err)
			}
			f(where, b)
			put(old)
		}
	})
}

func visit(v any, put func(any), where string, f func(where string, old any, put func(any))) {
	switch v := v.(type) {
	case map[string]any:
		if where != "" {
			f(where, v, put)
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			visit(v[k], func(y any) { v[k] = y }, strings.TrimPrefix(where+"."+k, "."), f)
		}
	case []any:
		f(where, v, put)
		if len(v) > 0 {
			visit(v[0], func(y any) { v[0] = y }, where+"[]", f)
		}
	case nil, bool:
	default:
		f(where, v, put)
	}
}

func (s *hostileStore) field(doc []byte, key string) any {
	m := map[string]any{}
	if err := json.Unmarshal(doc, &m); err != nil {
		s.t.Fatal(err)
	}
	return m[key]
}

func (s *hostileStore) set(doc []byte, key string, value any) []byte {
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(doc, &m); err != nil {
		s.t.Fatal(err)
	}
	var err error
	if m[key], err = json.Marshal(value); err != nil {
		s.t.Fatal(err)
	}
	out, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// blob reads what a field names: a descriptor or a digest.
func (s *hostileStore) blob(doc []byte, key string) []byte {
	d := s.field(doc, key)
	if m, ok := d.(map[string]any); ok {
		d = m["digest"]
	}
	return s.read(filepath.Join(s.root, "blobs", "sha256", strings.TrimPrefix(d.(string), "sha256:")))
}

func (s *hostileStore) putBlob(b []byte) string {
	d := digest.FromBytes(b)
	path := filepath.Join(s.root, "blobs", "sha256", d.Encoded())
	if _, err := os.Stat(path); err != nil {
		s.write(path, b, 0o400)
	}
	return d.String()
}

func (s *hostileStore) id() string {
	s.made++
	return fmt.Sprintf("%032x", s.made+1<<28)
}

func (s *hostileStore) find(parts ...string) []string { return s.findIn(s.root, parts...) }

func (s *hostileStore) findIn(dir string, parts ...string) []string {
	found, err := filepath.Glob(filepath.Join(append([]string{dir}, parts...)...))
	if err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func (s *hostileStore) read(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *hostileStore) write(path string, b []byte, mode os.FileMode) {
	if err := os.WriteFile(path, b, mode); err != nil {
		s.t.Fatal(err)
	}
}

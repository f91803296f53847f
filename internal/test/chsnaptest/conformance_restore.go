package chsnaptest

import (
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// restoreBody asks for a restore from a folder.
type restoreBody struct {
	SourceURL string `json:"source_url"`
	Resume    bool   `json:"resume,omitempty"`
}

// own reads a snapshot and gives it v's serial port and a copy of the disk.
func (v *vm) own(from *savedVM) *saved {
	v.t.Helper()
	sv, err := openSaved(from.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	sv.setSerial(v.console.path)
	v.disk = filepath.Join(v.dir, "disk.raw")
	copyFile(v.t, v.disk, from.disk)
	sv.setDisk(v.disk)
	return sv
}

// place prepares a snapshot for a VM beside its source: own serial port, own copy
// of the disk, memory linked or, with mapFrom, mapped from that file.
func (v *vm) place(from *savedVM, mapFrom string) string {
	v.t.Helper()
	dir := v.folder("restore")
	sv := v.own(from)
	if mapFrom != "" {
		sv.mapFile(mapFrom)
	} else if err := os.Link(filepath.Join(from.dir, "memory-ranges"), filepath.Join(dir, "memory-ranges")); err != nil {
		v.t.Fatal(err)
	}
	if err := sv.write(dir); err != nil {
		v.t.Fatal(err)
	}
	return dir
}

// lastTick is the newest count a paused guest printed.
func (v *vm) lastTick() uint64 {
	v.t.Helper()
	list, _ := v.output()
	if len(list) == 0 {
		v.t.Fatal("the guest printed no tick")
	}
	return list[len(list)-1].ram
}

// continues checks that the restored guest goes on right after last. A guest may
// be paused between counting and printing, so one or two counts may be missing.
func (v *vm) continues(last uint64) {
	v.t.Helper()
	v.waitTicks(5)
	list, _ := v.output()
	if first := list[0].ram; first < last || first > last+2 {
		v.t.Errorf("restored guest begins at %#x, source was paused at %#x", first, last)
	}
	v.healthy()
}

func testCopyRestore(t *testing.T, s *suite) {
	sn, w := s.snapshot(t), s.empty(t)
	if err := os.WriteFile(w.console.path, []byte("old output\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := w.place(sn, "")
	w.must("vm.restore", restoreBody{SourceURL: "file://" + dir})
	w.wantState("Paused")
	w.still()
	w.must("vm.resume", nil)
	w.continues(sn.last)
	if b, err := os.ReadFile(w.console.path); err != nil || strings.HasPrefix(string(b), "old") {
		t.Errorf("the serial file was not truncated (error %v)", err)
	}
	v := s.running(t)
	v.more(3)
	v.healthy()
}

func testRestoreResume(t *testing.T, s *suite) {
	sn, w := s.snapshot(t), s.empty(t)
	w.must("vm.restore", restoreBody{SourceURL: "file://" + w.place(sn, ""), Resume: true})
	w.wantState("Running")
	w.continues(sn.last)
}

func hashFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

func testMappedRestore(t *testing.T, s *suite) {
	sn := s.snapshot(t)
	memory := filepath.Join(scratch(t), "memory")
	if err := os.Link(filepath.Join(sn.dir, "memory-ranges"), memory); err != nil {
		t.Fatal(err)
	}
	before := hashFile(t, memory)
	var clones []*vm
	for range 2 {
		w := s.empty(t)
		w.must("vm.restore", restoreBody{SourceURL: "file://" + w.place(sn, memory), Resume: true})
		clones = append(clones, w)
	}
	for _, w := range clones {
		w.continues(sn.last)
	}
	if hashFile(t, memory) != before {
		t.Error("running clones changed the file they map")
	}
	if err := os.Remove(memory); err != nil {
		t.Fatal(err)
	}
	for _, w := range clones {
		w.more(3)
		w.healthy()
	}
}

func testMappedSnapshot(t *testing.T, s *suite) {
	sn, w := s.snapshot(t), s.empty(t)
	memory := filepath.Join(sn.dir, "memory-ranges")
	w.must("vm.restore", restoreBody{SourceURL: "file://" + w.place(sn, memory), Resume: true})
	w.waitTicks(3)
	again := &savedVM{dir: w.snapshot(), disk: w.disk, last: w.lastTick()}
	sv, err := openSaved(again.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(sv.ranges()) != 1 {
		t.Errorf("snapshot of a mapped clone has the range table %v, want one whole range", sv.ranges())
	}
	x := s.empty(t)
	dir := x.place(again, filepath.Join(again.dir, "memory-ranges"))
	x.must("vm.restore", restoreBody{SourceURL: "file://" + dir, Resume: true})
	x.continues(again.last)
}

func testRestoreFailures(t *testing.T, s *suite) {
	sn := s.snapshot(t)
	for _, c := range []struct {
		name  string
		spoil func(dir string, sv *saved)
		want  string
	}{
		{"no config.json", func(dir string, _ *saved) { mustRemove(t, dir, "config.json") }, "config.json"},
		{"no state.json", func(dir string, _ *saved) { mustRemove(t, dir, "state.json") }, "state.json"},
		{"no memory-ranges", func(dir string, _ *saved) { mustRemove(t, dir, "memory-ranges") }, `"Memory manager error","Error opening snapshot file","No such file or directory (os error 2)"`},
		{"no disk", func(_ string, sv *saved) { sv.setDisk("/nonexistent") }, `"Error from device manager","Cannot open disk path","I/O error (path=/nonexistent op=open)","No such file or directory (os error 2)"`},
		{"no initramfs", func(_ string, sv *saved) { sv.setInitramfs("/nonexistent") }, `"Cannot open initramfs file","No such file or directory (os error 2)"`},
		{"no folder for serial", func(_ string, sv *saved) { sv.setSerial("/nonexistent/serial") }, `"Error creating console devices","Error creating console device","No such file or directory (os error 2)"`},
		{"no memory file to map", func(_ string, sv *saved) { sv.mapFile("/nonexistent") }, `"Memory manager error","Failed to stat filesystem","No such file or directory (os error 2)"`},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := s.empty(t)
			good := w.place(sn, "")
			sv, err := openSaved(good)
			if err != nil {
				t.Fatal(err)
			}
			bad := w.folder("bad")
			if err := os.Link(filepath.Join(good, "memory-ranges"), filepath.Join(bad, "memory-ranges")); err != nil {
				t.Fatal(err)
			}
			c.spoil(w.dir, sv) // edits before the files are written
			if err := sv.write(bad); err != nil {
				t.Fatal(err)
			}
			c.spoil(bad, sv) // removals after
			status, body, err := w.do(w.ctx, http.MethodPut, "vm.restore", restoreBody{SourceURL: "file://" + bad})
			if err != nil || status != 500 || !strings.Contains(body, c.want) {
				t.Errorf("status %d %s, error %v, want 500 with %s", status, body, err, c.want)
			}
			w.must("vm.restore", restoreBody{SourceURL: "file://" + good, Resume: true})
			w.continues(sn.last)
		})
	}
}

func (s *saved) setInitramfs(path string) {
	s.config["payload"].(map[string]any)["initramfs"] = path
}

// mustRemove deletes a file when it is there.
func mustRemove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// testDiskLock ends the shared VM: it comes after every case that needs it.
func testDiskLock(t *testing.T, s *suite) {
	v, w := s.running(t), s.empty(t)
	config := map[string]any{
		"payload": map[string]any{"kernel": s.kernel},
		"cpus":    map[string]any{"boot_vcpus": 1, "max_vcpus": 1, "nested": false},
		"memory":  map[string]any{"size": guestBytes},
		"disks":   []any{map[string]any{"path": v.disk, "image_type": "Raw"}},
		"serial":  map[string]any{"mode": "File", "file": w.console.path},
		"console": map[string]any{"mode": "Off"},
	}
	w.must("vm.create", config)
	w.wantState("Created")
	status, body, err := w.do(w.ctx, http.MethodPut, "vm.boot", nil)
	if err != nil || status != 500 || !strings.Contains(body, "Another instance likely holds a lock") {
		t.Errorf("booting on a disk in use: status %d %s, error %v", status, body, err)
	}
	w.must("vm.delete", nil)
	status, _, err = w.do(w.ctx, http.MethodGet, "vm.info", nil)
	if err != nil || status != http.StatusNotFound {
		t.Errorf("vm.info after vm.delete: status %d, error %v, want 404", status, err)
	}
	before := names(t, v.dir)
	v.must("vm.shutdown", nil)
	v.wantState("Created")
	if diff := cmp.Diff(before, names(t, v.dir)); diff != "" {
		t.Errorf("vm.shutdown changed files (-before +after):\n%s", diff)
	}
	w.must("vm.create", config)
	w.must("vm.boot", nil)
	w.disk = v.disk
	if first := w.waitTicks(1); first.ram > 1000 {
		t.Errorf("a cold boot continues at tick %#x", first.ram)
	}
	w.healthy()
}

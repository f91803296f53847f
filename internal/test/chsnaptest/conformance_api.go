package chsnaptest

import (
	"embed"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recorded is what the real v53.0 answered to calls that must fail.
//
//go:embed testdata/errors.json
var recorded embed.FS

type recordedError struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
}

func recordedErrors() (map[string]recordedError, error) {
	b, err := recorded.ReadFile("testdata/errors.json")
	if err != nil {
		return nil, err
	}
	all := map[string]recordedError{}
	return all, json.Unmarshal(b, &all)
}

func testPing(t *testing.T, s *suite) {
	v := s.empty(t)
	p, err := v.ping(v.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != v.cmd.Process.Pid || p.Version == "" {
		t.Errorf("ping answered %+v, want pid %d and a version", p, v.cmd.Process.Pid)
	}
}

func testPause(t *testing.T, s *suite) {
	v := s.running(t)
	i, err := v.info(v.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if i.State != "Running" || i.Memory != guestBytes {
		t.Errorf("info says %s with %d bytes, want Running with %d", i.State, i.Memory, guestBytes)
	}
	v.must("vm.pause", nil)
	v.wantState("Paused")
	v.still()
	v.must("vm.resume", nil)
	v.wantState("Running")
	v.more(3)
	v.healthy()
}

// still fails when the guest prints within the time of several ticks.
func (v *vm) still() {
	v.t.Helper()
	before, _ := v.output()
	timer := time.NewTimer(80 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	if after, _ := v.output(); len(after) != len(before) {
		v.t.Errorf("%d ticks while paused", len(after)-len(before))
	}
}

func testPauseAtOnce(t *testing.T, s *suite) {
	v := s.launch(t, bootArgs(s.kernel, "$DIR/serial")...)
	// The API answers before the VM that the command line names is booted.
	err := v.until(v.ctx, "booted VM", func() bool {
		info, err := v.info(v.ctx)
		return err == nil && info.State == "Running"
	})
	if err != nil {
		t.Fatal(err)
	}
	v.must("vm.pause", nil)
	v.must("vm.resume", nil)
	v.waitTicks(3)
	v.healthy()
}

// failingCall is one row of errors.json: which VMM it is put to, and how.
type failingCall struct {
	name, on, method, call string
	body                   any
}

// failingCalls lists them; on is "running", "paused" or "empty". /nonexistent is
// the path in the recorded bodies.
func failingCalls(taken string) []failingCall {
	url := func(u string) map[string]string { return map[string]string{"destination_url": u} }
	source := func(u string) map[string]string { return map[string]string{"source_url": u} }
	return []failingCall{
		{"resume-running", "running", "PUT", "vm.resume", nil},
		{"snapshot-running", "running", "PUT", "vm.snapshot", url("file:///dev/shm")},
		{"pause-paused", "paused", "PUT", "vm.pause", nil},
		{"snapshot-no-dir", "paused", "PUT", "vm.snapshot", url("file:///nonexistent")},
		{"snapshot-bad-url", "paused", "PUT", "vm.snapshot", url("/dev/shm")},
		{"snapshot-file-exists", "paused", "PUT", "vm.snapshot", url("file://" + taken)},
		{"restore-when-created", "paused", "PUT", "vm.restore", source("file:///dev/shm")},
		{"unknown-endpoint", "paused", "PUT", "vm.nonsense", nil},
		{"bad-json", "paused", "PUT", "vm.snapshot", []byte(`{"nope": 1}`)},
		{"pause-no-vm", "empty", "PUT", "vm.pause", nil},
		{"info-no-vm", "empty", "GET", "vm.info", nil},
		{"restore-no-dir", "empty", "PUT", "vm.restore", source("file:///nonexistent")},
		{"shutdown-no-vm", "empty", "PUT", "vm.shutdown", nil},
	}
}

func testErrors(t *testing.T, s *suite) {
	want, err := recordedErrors()
	if err != nil {
		t.Fatal(err)
	}
	empty, v := s.empty(t), s.running(t)
	taken := v.folder("taken")
	if err := os.WriteFile(filepath.Join(taken, "state.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ping, err := v.ping(v.ctx)
	if err != nil {
		t.Fatal(err)
	}
	exact := strings.HasPrefix(ping.Version, "53.")
	for _, c := range failingCalls(taken) {
		on := v
		switch {
		case c.on == "empty":
			on = empty
		case c.on == "paused" && v.state() == "Running":
			v.must("vm.pause", nil)
		}
		status, body, err := on.do(on.ctx, c.method, c.call, c.body)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := recordedError{status, body}
		switch diff := cmp.Diff(want[c.name], got); {
		case exact && diff != "":
			t.Errorf("%s (-v53.0 +got):\n%s", c.name, diff)
		case got.Status < 400:
			t.Errorf("%s: status %d, want an error", c.name, got.Status)
		}
	}
	v.must("vm.resume", nil)
}

func testBadRequests(t *testing.T, s *suite) {
	v := s.empty(t)
	for _, c := range []struct {
		method, call string
		body         any
		want         recordedError
	}{
		{"GET", "vm.pause", nil, recordedError{400, `["Bad Request"]`}},
		{"PUT", "vmm.ping", nil, recordedError{400, `["Bad Request"]`}},
		{"PATCH", "vm.pause", nil, recordedError{400, ``}},
		{"PUT", "vm.snapshot", nil, recordedError{400, `["Bad Request"]`}},
		{"PUT", "vm.pause", []byte(`{}`), recordedError{400, `["Bad Request"]`}},
		{"PUT", "vm.restore", []byte(`{}`), recordedError{400, "[\"Failed to deserialize JSON\",\"missing field `source_url` at line 1 column 2\"]"}},
		{"PUT", "vm.boot", nil, recordedError{404, `["Error from API","The VM could not boot","VM config is missing"]`}},
		{"PUT", "vm.delete", nil, recordedError{204, ``}},
	} {
		status, body, err := v.do(v.ctx, c.method, c.call, c.body)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.call, err)
		}
		if diff := cmp.Diff(c.want, recordedError{status, body}); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.call, diff)
		}
	}
}

func testEnd(t *testing.T, s *suite) {
	v := s.empty(t)
	v.must("vmm.shutdown", nil)
	<-v.exit
	if code := v.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d after vmm.shutdown, want 0", code)
	}
	if got := names(t, v.dir); !slices.Equal(got, []string{"vmm.sock.lock"}) {
		t.Errorf("after vmm.shutdown: %v", got)
	}
	k := s.empty(t)
	k.kill()
	if got := names(t, k.dir); !slices.Equal(got, []string{"vmm.sock", "vmm.sock.lock"}) {
		t.Errorf("after a kill: %v", got)
	}
}

func testSocketLock(t *testing.T, s *suite) {
	v := s.empty(t)
	q := newQuick(s.binary, "--api-socket", v.socket)
	if q.code != 1 || !strings.Contains(q.output, "already in use") {
		t.Errorf("second VMM on one socket: exit %d, %s", q.code, q.output)
	}
	v.kill()
	again, err := start(v.ctx, s.binary, v.dir, "vmm")
	if err != nil {
		t.Fatalf("starting on a stale socket: %v", err)
	}
	again.kill()
}

// names lists a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

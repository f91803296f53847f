package chsnaptest

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sendBody asks for a migration to a socket with the options of a live capture.
func sendBody(socket string) map[string]any {
	return map[string]any{
		"destination_url": "unix:" + socket, "local": false,
		"downtime_ms": 5, "timeout_s": 20, "timeout_strategy": "Ignore",
	}
}

// send lets the VM send itself to s and waits until the VMM has ended it.
func (v *vm) send(socket string, s *stream) {
	v.t.Helper()
	v.must("vm.send-migration", sendBody(socket))
	if err := s.receive(); err != nil {
		v.t.Fatalf("after %v: %v", s.commands, err)
	}
	v.sent()
}

// sent waits until no call is refused for a migration any more.
func (v *vm) sent() {
	v.t.Helper()
	err := v.until(v.ctx, "the end of the migration", func() bool {
		_, body, err := v.do(v.ctx, http.MethodGet, "vm.counters", nil)
		return err == nil && !strings.Contains(body, "currently migrating")
	})
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *vm) listen() (string, *stream) {
	v.t.Helper()
	socket := filepath.Join(v.folder("stream"), "s")
	s, err := listenStream(socket)
	if err != nil {
		v.t.Fatal(err)
	}
	return socket, s
}

// restores builds a VM of what a stream brought and lets it run.
func (s *suite) restores(t *testing.T, st *stream, disk string, last uint64) {
	t.Helper()
	from := &savedVM{dir: scratch(t), disk: disk, last: last}
	if err := st.write(from.dir); err != nil {
		t.Fatal(err)
	}
	w := s.empty(t)
	w.must("vm.restore", restoreBody{SourceURL: "file://" + w.place(from, ""), Resume: true})
	w.continues(last)
}

func testStream(t *testing.T, s *suite) {
	v := s.running(t)
	for round := range 2 { // a second one must find everything as the first did
		socket, st := v.listen()
		disk, last := filepath.Join(v.folder("disk"), "copy"), uint64(0)
		st.quiet = func() { copyFile(t, disk, v.disk); last = v.lastTick() }
		v.send(socket, st)
		v.wantState("Running")
		v.more(3)
		v.healthy()
		n := len(st.commands)
		if n < 5 || !slices.Equal(st.commands[:3], []string{"Start", "Config", "Memory"}) || !slices.Equal(st.commands[n-2:], []string{"State", "Complete"}) {
			t.Errorf("round %d: commands %v", round, st.commands)
		}
		if !st.dense {
			t.Errorf("round %d: the first pass was not all of RAM", round)
		}
		s.restores(t, st, disk, last)
	}
}

func testStreamPaused(t *testing.T, s *suite) {
	v := s.running(t)
	v.must("vm.pause", nil)
	socket, st := v.listen()
	disk := filepath.Join(v.folder("disk"), "copy")
	copyFile(t, disk, v.disk)
	v.send(socket, st)
	if got := st.commands[len(st.commands)-1]; got != "CompletePaused" {
		t.Errorf("the last command of a paused VM is %s", got)
	}
	v.wantState("Paused")
	v.still()
	last := v.lastTick()
	v.must("vm.resume", nil)
	v.more(2)
	v.healthy()
	s.restores(t, st, disk, last)
}

func testStreamPeerDies(t *testing.T, s *suite) {
	v := s.running(t)
	for _, phase := range []string{"Start", "Config", "Memory1", "Memory2", "State", "Complete"} {
		socket, st := v.listen()
		st.dieAt = phase
		v.send(socket, st)
		if v.state() != "Running" {
			t.Fatalf("the peer died at %s: state %s", phase, v.state())
		}
		v.more(2)
		v.healthy()
	}
}

func testStreamRefusals(t *testing.T, s *suite) {
	v := s.running(t)
	nobody := filepath.Join(v.folder("nobody"), "s")
	v.must("vm.send-migration", sendBody(nobody)) // fails later, in the background
	v.sent()
	v.wantState("Running")
	socket, st := v.listen()
	v.must("vm.send-migration", sendBody(socket))
	const busy = "VM is currently migrating and can't be modified"
	for _, c := range []struct {
		on           *vm
		method, call string
		body         any
		want         recordedError
	}{
		{v, "PUT", "vm.pause", nil, recordedError{500, `["Error from API","The VM could not be paused","` + busy + `"]`}},
		{v, "PUT", "vm.resume", nil, recordedError{500, `["Error from API","The VM could not resume","` + busy + `"]`}},
		{v, "PUT", "vm.shutdown", nil, recordedError{500, `["Error from API","The VM could not shutdown","` + busy + `"]`}},
		{v, "PUT", "vm.snapshot", fileURL("/nonexistent"), recordedError{500, `["Error from API","The VM could not be snapshotted","` + busy + `"]`}},
		{v, "PUT", "vm.send-migration", sendBody(socket), recordedError{500, `["Error from API","Error dispatching the migration worker","Failed to send migratable component snapshot","There is already an ongoing migration"]`}},
		{s.empty(t), "PUT", "vm.send-migration", sendBody(nobody), recordedError{500, `["Error from API","Error dispatching the migration worker","Failed to send migratable component snapshot","VM is not running"]`}},
	} {
		status, body, err := c.on.do(v.ctx, c.method, c.call, c.body)
		if err != nil {
			t.Fatalf("%s: %v", c.call, err)
		}
		if diff := cmp.Diff(c.want, recordedError{status, body}); diff != "" {
			t.Errorf("%s while migrating (-want +got):\n%s", c.call, diff)
		}
	}
	v.wantState("Running") // what it was when the migration began
	if err := st.receive(); err != nil {
		t.Fatal(err)
	}
	v.sent()
	v.more(2)
	v.healthy()
}

// locked tells whether somebody holds a record lock for writing on a file.
func locked(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		t.Fatal(err)
	}
	return l.Type == unix.F_WRLCK
}

// testStreamLocks boots the shared VM anew, with the locks that the streams of
// the cases before took from it.
func testStreamLocks(t *testing.T, s *suite) {
	v := s.running(t)
	reboot := func() {
		v.must("vm.shutdown", nil)
		v.must("vm.boot", nil)
		v.waitTicks(3)
		if !locked(t, v.disk) {
			t.Error("the disk lock did not come back with the next boot")
		}
	}
	reboot()
	for _, c := range []struct {
		dieAt string
		want  bool
	}{{"Memory1", true}, {"State", false}} {
		socket, st := v.listen()
		st.dieAt = c.dieAt
		v.send(socket, st)
		if got := locked(t, v.disk); got != c.want {
			t.Errorf("disk lock after a stream that ended at %s: %v, want %v", c.dieAt, got, c.want)
		}
	}
	v.more(2)
	v.healthy()
	reboot()
}

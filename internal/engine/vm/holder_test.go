package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
)

var loopback = network.Attachment{Tap: "lo", MAC: "02:00:00:00:00:01"}

// holding starts a process that holds the lock of a VM by a note in its name.
func holding(t *testing.T, b *bed, id string) *exec.Cmd {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(b.Dir(id), lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	c := exec.Command("sleep", "1000")
	c.ExtraFiles = []*os.File{f}
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	must(t, f.Truncate(0))
	_, err = fmt.Fprintf(f, "snapshot create (pid %d, since now)\n", c.Process.Pid)
	must(t, err)
	return c
}

func inState(t *testing.T, pid int, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		is, err := processState(pid)
		if is == want {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("process %d is %q, %v; want %q", pid, is, err, want)
		}
	}
}

// TestWhoKeepsAVMBusyIsSaid with what lets it go on.
func TestWhoKeepsAVMBusyIsSaid(t *testing.T) {
	b := newBed(t, Options{Patience: quick})
	rec := b.create(t, "web", false)
	c := holding(t, b, rec.ID)
	pid := c.Process.Pid
	busy := func(what, hint string) {
		t.Helper()
		_, _, err := b.Lock(t.Context(), "web", "test")
		refused(t, what, err, failure.Busy, fmt.Sprintf(hint, pid))
	}
	busy("at work", "wait for process %d")
	must(t, c.Process.Signal(unix.SIGSTOP))
	inState(t, pid, "T")
	busy("stopped", "kill -CONT %d")
	if did, err := b.endStopped(rec.ID); did || err != nil {
		t.Errorf("no guest waits for it, ended %v, %v", did, err)
	}
	_, err := b.OweResume(t.Context(), rec)
	must(t, err)
	if did, err := b.endStopped(rec.ID); !did || err != nil {
		t.Errorf("a guest waits for it, ended %v, %v", did, err)
	}
	if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("it ended by %v", err)
	}
	if did, err := b.endStopped(rec.ID); did || err != nil { // its note is left
		t.Errorf("it is gone, ended %v, %v", did, err)
	}
	if _, unlock, err := b.Lock(t.Context(), "web", "test"); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
	_, err = b.lock(t.Context(), fuzzID, "test")
	refused(t, "nobody", err, failure.NotFound)
	boom := errors.New("boom")
	for note, err := range map[string]error{"": boom, "x (pid 99999999999999999999, since": boom, "x (pid 1, since now)": boom} {
		path := filepath.Join(t.TempDir(), "lock")
		must(t, os.WriteFile(path, []byte(note), 0o600))
		if got := explainBusy(err, path); got != err {
			t.Errorf("note %q: %v", note, got)
		}
	}
}

// TestANameIsOneVMs: what looks like an id names no VM, a part of an id names one
// where no other has it, and a name comes first.
func TestANameIsOneVMs(t *testing.T) {
	m := newManager(t)
	for i, name := range []string{"web", "0123", "db"} {
		rec := &Record{Version: recordVersion, ID: fmt.Sprintf("0123%d%027d", i, 0), Name: name, State: Stopped}
		must(t, errors.Join(os.Mkdir(m.Dir(rec.ID), 0o700), m.save(rec)))
	}
	for _, dir := range []string{numbered(9), "no id", ".tmp-x"} { // being made, and not ours
		must(t, os.Mkdir(m.Dir(dir), 0o700))
	}
	all, err := m.List(t.Context())
	if err != nil || len(all) != 3 || all[0].Name != "0123" {
		t.Fatalf("%+v, %v", all, err)
	}
	for ref, want := range map[string]string{"web": "web", "0123": "0123", "01230": "web", "01232": "db", all[1].ID: all[1].Name} {
		if rec, err := m.Get(t.Context(), ref); err != nil || rec.Name != want {
			t.Errorf("%s: %+v, %v; want %s", ref, rec, err, want)
		}
	}
	for ref, class := range map[string]error{"01": failure.NotFound, "012": failure.Usage, "nobody": failure.NotFound, numbered(9): failure.NotFound} {
		if rec, err := m.Get(t.Context(), ref); err == nil || failure.Code(err) == 1 {
			t.Errorf("%s: %+v, %v; want %v", ref, rec, err, class)
		}
	}
	for name, class := range map[string]error{
		"": failure.Usage, "-x": failure.Usage, "a/b": failure.Usage, "a b": failure.Usage, strings.Repeat("a", 65): failure.Usage, numbered(1): failure.Usage,
		"web": failure.Conflict, "free": nil, strings.Repeat("a", 64): nil,
	} {
		if err := m.CheckName(t.Context(), name); !errors.Is(err, class) || (err == nil) != (class == nil) {
			t.Errorf("%q: %v, want %v", name, err, class)
		}
	}
	lan := Network{"_net0", network.Attachment{Network: "lan", MAC: "02:00:00:00:00:01"}}
	all[0].Networks = []Network{lan}
	must(t, m.save(all[0]))
	other := lan
	other.MAC = "02:00:00:00:00:02"
	if !m.HasInterface(all[0].ID, lan) || m.HasInterface(all[0].ID, other) || m.HasInterface(all[1].ID, lan) || m.HasInterface("../x", lan) || m.HasInterface(numbered(9), lan) {
		t.Error("an interface is another's, or is not its own VM's")
	}
	must(t, os.WriteFile(m.recordPath(all[0].ID), []byte(`{"version":2}`), 0o600))
	_, err = m.List(t.Context())
	refused(t, "a record of a newer program", err, failure.Damaged, "version 2")
}

// TestInterfacesOfANewVM: each has a MAC, there are only so many, and TAPs of the
// host stand with no other kind.
func TestInterfacesOfANewVM(t *testing.T) {
	nets, err := wanted(fuzzID, []network.Request{{Network: "lan"}, {Network: "dmz", MAC: "02:00:00:00:00:07"}})
	if err != nil || len(nets) != 2 || nets[0].ID != "_net0" || nets[0].MAC != "02:01:23:45:67:00" || nets[1].MAC != "02:00:00:00:00:07" {
		t.Errorf("%+v, %v", nets, err)
	}
	_, err = wanted(fuzzID, []network.Request{{Network: network.Tap, Tap: "t0"}, {Network: "lan"}})
	refused(t, "a TAP and a network", err, failure.Usage, "all interfaces as tap=NAME")
	_, err = wanted(fuzzID, []network.Request{{Network: network.Tap, Tap: "t0"}, {Network: network.Tap, Tap: "t1"}})
	must(t, err)
	_, err = wanted(fuzzID, make([]network.Request, network.MaxInterfaces+1))
	refused(t, "too many", err, failure.Usage, "at most")
	rec := &Record{Name: "web"}
	must(t, CannotAttach(rec, nil))
	refused(t, "cannot attach", CannotAttach(rec, failure.Hint(failure.New(failure.NotFound, "no network"), "make it")), failure.NotFound, "make it; its interfaces", "--network fresh")
}

// TestTheSocketOfAVsockDeviceIsClearedOnlyOfTheDead.
func TestTheSocketOfAVsockDeviceIsClearedOnlyOfTheDead(t *testing.T) {
	b := newBed(t, Options{})
	path := filepath.Join(filepath.Dir(b.kernel), "v.sock")
	rec := &Record{ID: fuzzID, ExtraArgs: []string{"--vsock", "cid=3,socket=" + path}}
	must(t, b.clearVsock(rec))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	must(t, errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1)))
	if at := b.VsockSocket(rec); at != path {
		t.Errorf("its socket is %q", at)
	}
	refused(t, "a living one", b.clearVsock(rec), failure.Conflict, "another process listens")
	must(t, unix.Close(fd))
	must(t, b.clearVsock(rec))
	if exists(path) {
		t.Error("that of a dead one is left")
	}
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, b.clearVsock(rec))
	if !exists(path) || b.VsockSocket(rec) != "" {
		t.Error("a file is taken for a socket")
	}
	rec.Snapshot = string(aSnapshot) // of a rebuilt VM the socket of the saved one is not its own
	if at := b.VsockPath(rec); at != filepath.Join(b.RunDir(rec.ID), vsockFile) {
		t.Errorf("a rebuilt one's is %q", at)
	}
}

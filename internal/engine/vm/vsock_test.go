package vm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestEachRebuiltVMHasItsOwnVsockSocket: the arguments of a snapshot name the
// socket of the VM that was saved.
func TestEachRebuiltVMHasItsOwnVsockSocket(t *testing.T) {
	m := New(nil, nil, Options{RunDir: "/run/x"})
	for _, c := range []struct{ args, own, cold []string }{
		{nil, nil, nil},
		{[]string{"--rtc"}, nil, []string{"--rtc"}},
		{[]string{"--vsock=cid=3,socket=/a"}, []string{"/a"}, []string{"--vsock=cid=3,socket=/run/x/id/vsock.sock"}},
		{[]string{"--vsock=socket=/a,cid=3"}, []string{"/a"}, []string{"--vsock=socket=/run/x/id/vsock.sock,cid=3"}},
		{[]string{"--rtc", "--vsock", `cid=3,socket="/a,b",id=v`}, []string{"/a,b"}, []string{"--rtc", "--vsock", "cid=3,socket=/run/x/id/vsock.sock,id=v"}},
		{[]string{"--api", "cid=3,socket=/a"}, nil, []string{"--api", "cid=3,socket=/a"}},
	} {
		made, rebuilt := &Record{ID: "id", ExtraArgs: c.args}, &Record{ID: "id", ExtraArgs: c.args, Snapshot: "s"}
		own := "/run/x/id/vsock.sock"
		if got := m.VsockPath(rebuilt); got != own {
			t.Errorf("%q rebuilt: %s", c.args, got)
		}
		if got := m.extraArgs(rebuilt); !slices.Equal(got, c.cold) {
			t.Errorf("%q rebuilt: arguments %q, want %q", c.args, got, c.cold)
		}
		if len(c.own) > 0 {
			own = c.own[0]
		}
		if got := m.VsockPath(made); got != own {
			t.Errorf("%q: %s, want %s", c.args, got, own)
		}
	}
}

// TestOnlyASocketThatNobodyListensOnIsRemoved, and no file of another kind.
func TestOnlyASocketThatNobodyListensOnIsRemoved(t *testing.T) {
	dir := t.TempDir()
	m := New(nil, nil, Options{RunDir: dir})
	path := filepath.Join(dir, "v")
	rec := &Record{ID: "id", ExtraArgs: []string{"--vsock=cid=3,socket=" + path}}
	if err := m.clearVsock(rec); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := m.clearVsock(rec); !errors.Is(err, failure.Conflict) {
		t.Errorf("somebody listens: %v", err)
	}
	l.Close()
	if err := m.clearVsock(rec); err != nil {
		t.Errorf("left behind: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.clearVsock(rec); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("a file went: %v", err)
	}
}

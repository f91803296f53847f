package chsnap

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAGuardActsOnAnOpenDebtOnly: when its process has died, the VM is resumed,
// but not if it sleeps by now or somebody else has resumed it, who may have
// paused it again on purpose.
func TestAGuardActsOnAnOpenDebtOnly(t *testing.T) {
	t.Cleanup(func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE) }) // to which a guard is deaf
	for name, c := range map[string]struct {
		asleep, owed bool
		want         bool
	}{
		"owed":              {owed: true, want: true},
		"settled by others": {},
		"asleep":            {owed: true, asleep: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "g") // short: socket paths end at 108 bytes
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			staging, sleep, owed := filepath.Join(dir, "staging"), filepath.Join(dir, "suspend.json"), filepath.Join(dir, "owed")
			err = os.Mkdir(staging, 0o700)
			if c.asleep {
				err = errors.Join(err, os.WriteFile(sleep, nil, 0o600))
			}
			if c.owed {
				err = errors.Join(err, os.WriteFile(owed, nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(dir, "s")
			resumed := pausedVM(t, socket)
			ours, w := guarded(t)
			ours.Close() // it died
			if err := RunGuard([]string{socket, staging, sleep, owed, "10000000000"}, w); err != nil {
				t.Fatal(err)
			}
			if resumed.Load() != c.want {
				t.Errorf("resumed: %v", resumed.Load())
			}
			if _, err := os.Stat(staging); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the staged RAM is there still: %v", err)
			}
		})
	}
}

// guarded is what a guard process has of another one, and that one's end.
func guarded(t *testing.T) (*net.UnixConn, *Watched) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, &Watched{conn: conn, say: func(string) {}}
}

// TestAProcessThatStandsStillIsEnded: by SIGTERM and, where that does not help,
// by SIGKILL, and no sooner than it was armed.
func TestAProcessThatStandsStillIsEnded(t *testing.T) {
	t.Cleanup(func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE) }) // to which a guard is deaf
	for script, want := range map[string]syscall.Signal{
		"kill -STOP $$": syscall.SIGTERM,
		"trap '' TERM; kill -STOP $$; while :; do sleep .01; done": syscall.SIGKILL,
	} {
		t.Run(want.String(), func(t *testing.T) {
			ours, w := guarded(t)
			still := exec.Command("/bin/sh", "-c", script)
			if err := still.Start(); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(still.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			w.process = os.NewFile(uintptr(fd), "pidfd")
			defer w.process.Close()
			ended := make(chan error, 1)
			go func() {
				ended <- still.Wait()
				ours.Close() // as the kernel does
			}()
			if _, err := ours.Write([]byte("50ms")); err != nil {
				t.Fatal(err)
			}
			if dead, err := w.Abandoned(); err != nil || !dead {
				t.Errorf("abandoned: %v, %v", dead, err)
			}
			<-ended
			if got := still.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != want {
				t.Errorf("it ended by %s, want %s", got, want)
			}
		})
	}
}

// TestAGuardThatIsNotArmedWaits: what is not paused yet may stand still.
func TestAGuardThatIsNotArmedWaits(t *testing.T) {
	t.Cleanup(func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE) })
	ours, w := guarded(t)
	done := make(chan bool, 1)
	go func() {
		dead, _ := w.Abandoned() // would end a process that w has not
		done <- dead
	}()
	if _, err := ours.Write([]byte(released)); err != nil {
		t.Fatal(err)
	}
	if <-done {
		t.Error("a released process is taken for dead")
	}
}

// pausedVM answers like a VMM whose guest stands still; the answer says whether
// it was resumed.
func pausedVM(t *testing.T, socket string) *atomic.Bool {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var running atomic.Bool
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "vm.resume"):
			running.Store(true)
			w.WriteHeader(http.StatusNoContent)
		case running.Load():
			io.WriteString(w, `{"state":"Running"}`)
		default:
			io.WriteString(w, `{"state":"Paused"}`)
		}
	})}
	done := make(chan struct{})
	go func() {
		s.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return &running
}

package chsnap

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestAGuardActsOnAnOpenDebtOnly: when its process has died, the VM is resumed,
// but not if it sleeps by now or somebody else has resumed it, who may have
// paused it again on purpose.
func TestAGuardActsOnAnOpenDebtOnly(t *testing.T) {
	t.Cleanup(func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) }) // which a guard ignores
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
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			w.Close() // it died
			if err := RunGuard([]string{socket, staging, sleep, owed}, r); err != nil {
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

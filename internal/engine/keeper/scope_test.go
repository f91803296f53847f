package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAVMMStartsWithoutAScope where none is to be had, unless it must have one.
func TestAVMMStartsWithoutAScope(t *testing.T) {
	for _, must := range []bool{false, true} {
		dir := t.TempDir()
		log, err := os.Create(filepath.Join(dir, VMMLog))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		s, err := Program("").Start(t.Context(), Job{
			Dir: dir, Log: log, Argv: []string{"/bin/sh", "-c", "exec sleep 100"},
			Scope: &Scope{Argv: []string{"/bin/sh", "-c", "echo no scopes here >&2; exit 1", "--"}, Must: must},
		})
		if must {
			if err == nil || !strings.Contains(err.Error(), "vmScope") {
				t.Errorf("it must have one, and starts: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if end := <-s.Gone; end == nil {
			t.Error("it ended without a word")
		}
	}
}

package chsnaptest

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// quick is a command that ends by itself.
type quick struct {
	code   int
	output string
}

func newQuick(binary string, args ...string) quick {
	cmd := exec.Command(binary, args...)
	cmd.Env = cleanEnv(os.Environ())
	out, _ := cmd.CombinedOutput() // the status is judged by the caller
	return quick{cmd.ProcessState.ExitCode(), string(out)}
}

func testSnapshotFiles(t *testing.T, s *suite) {
	v := s.running(t)
	dir := v.snapshot()
	v.wantState("Paused")
	want := []string{"config.json", "memory-ranges", "state.json"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("snapshot folder holds %v, want %v", got, want)
	}
	for _, name := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, want 0600 with umask 077", name, info.Mode())
		}
	}
	sv, err := openSaved(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][2]int64{{0, guestBytes}}, sv.ranges()); diff != "" {
		t.Errorf("range table (-want +got):\n%s", diff)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "memory-ranges"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != guestBytes || st.Blocks*512 < guestBytes {
		t.Errorf("memory-ranges: %d bytes in %d blocks, want %d, dense", st.Size, st.Blocks, guestBytes)
	}
	v.must("vm.resume", nil)
	v.more(3)
	v.healthy()
}

func testSnapshotLeftovers(t *testing.T, s *suite) {
	v := s.running(t)
	v.must("vm.pause", nil)
	for taken, want := range map[string][]string{
		"config.json":   {"config.json"},
		"state.json":    {"config.json", "state.json"},
		"memory-ranges": {"config.json", "memory-ranges", "state.json"},
	} {
		dir := v.folder("taken-" + taken)
		if err := os.WriteFile(filepath.Join(dir, taken), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		status, body, err := v.do(v.ctx, http.MethodPut, "vm.snapshot", fileURL(dir))
		if err != nil || status != 500 || !strings.Contains(body, "File exists (os error 17)") {
			t.Errorf("%s taken: status %d %s, error %v", taken, status, body, err)
		}
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("%s taken: left %v, want %v", taken, got, want)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, taken)); string(b) != "old" {
			t.Errorf("%s was overwritten", taken)
		}
	}
	v.wantState("Paused")
	v.must("vm.resume", nil)
}

func testNoSpace(t *testing.T, s *suite) {
	v := s.running(t)
	dir := v.folder("small")
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting the small tmpfs: %v", err)
		}
	}()
	v.must("vm.pause", nil)
	status, body, err := v.do(v.ctx, http.MethodPut, "vm.snapshot", fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	want, err := recordedErrors()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want["snapshot-enospc"], recordedError{status, body}); diff != "" {
		t.Errorf("full disk (-v53.0 +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "memory-ranges")); err != nil || info.Size() != guestBytes {
		t.Errorf("memory-ranges after a full disk: %v, error %v, want %d bytes", info, err, guestBytes)
	}
	if _, err := openSaved(dir); err != nil {
		t.Errorf("config.json and state.json must be whole: %v", err)
	}
	v.must("vm.resume", nil)
	v.more(2)
	v.healthy()
}

func testClientDeath(t *testing.T, s *suite) {
	v := s.running(t)
	v.must("vm.pause", nil)
	dir := v.folder("abandoned")
	// A request that is not read yet goes with its client, so wait for its effect.
	err := v.abandon(v.ctx, "vm.snapshot", fileURL(dir), func() error {
		return v.until(v.ctx, "the snapshot's first file", func() bool { return len(names(t, dir)) > 0 })
	})
	if err != nil {
		t.Fatal(err)
	}
	v.wantState("Paused")
	if _, err := openSaved(dir); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "memory-ranges")); err != nil || info.Size() != guestBytes {
		t.Errorf("memory-ranges: %v, error %v", info, err)
	}
	v.still()
	v.must("vm.resume", nil)
	v.more(2)
	v.healthy()
}

// copyFile copies a small file.
func copyFile(t *testing.T, dst, src string) {
	t.Helper()
	b, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst, b, 0o600); err != nil {
		t.Fatal(fmt.Errorf("copying %s: %w", src, err))
	}
}

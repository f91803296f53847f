package durable

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteFileReplacesWholeAndLeavesNothingBeside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meta.json")
	for _, want := range []string{"first and longer", "second", ""} {
		if err := writeFile(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("read back %q, %v; want %q", got, err, want)
		}
	}
	st, _ := os.Stat(path)
	if st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want 0640", st.Mode())
	}
	if diff := cmp.Diff([]string{"meta.json"}, names(t, dir)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestWriteFileThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "taken"), []byte("x"), 0o600); err == nil {
		t.Fatal("a folder was replaced by a file")
	}
	if diff := cmp.Diff([]string{"taken"}, names(t, dir)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// TestOnlyARegularFileIsReplaced: not a device, a pipe, a socket, a link or a folder,
// whichever way a file gets its name.
func TestOnlyARegularFileIsReplaced(t *testing.T) {
	kinds := map[string]func(path string) error{
		"pipe":         func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link":         func(path string) error { return os.Symlink("/etc/passwd", path) },
		"dangling":     func(path string) error { return os.Symlink("nowhere", path) },
		"folder":       func(path string) error { return os.Mkdir(path, 0o700) },
		"socket":       func(path string) error { return syscall.Mknod(path, syscall.S_IFSOCK|0o600, 0) },
		"null device":  func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|3) },
		"regular file": func(path string) error { return os.WriteFile(path, []byte("old"), 0o600) },
		"nothing":      func(string) error { return nil },
	}
	for kind, make := range kinds {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			path, other := filepath.Join(dir, "x"), filepath.Join(dir, "other")
			if err := make(path); errors.Is(err, syscall.EPERM) {
				t.Skip("no device can be made here")
			} else if err != nil {
				t.Fatal(err)
			}
			folder, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer folder.Close()
			if err := os.WriteFile(other, []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			allowed := kind == "regular file" || kind == "nothing"
			for how, err := range map[string]error{
				"target": Target(path), "write": writeFile(path, []byte("new"), 0o600),
				"write in": writeFileIn(folder, "x", []byte("new"), 0o600), "replace": Replace(other, path),
			} {
				if (err == nil) != allowed {
					t.Errorf("%s: %v", how, err)
				}
			}
			after, err := os.Lstat(path)
			if allowed {
				if b, err := os.ReadFile(path); err != nil || string(b) != "new" {
					t.Errorf("%q, %v", b, err)
				}
			} else if err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced: %v", err)
			}
		})
	}
}

func TestPublishNeverOverwrites(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "in"} {
		if err := Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "in", "x")
	if err := Publish(filepath.Join(dir, "a"), to); err != nil {
		t.Fatal(err)
	}
	if err := Publish(filepath.Join(dir, "b"), to); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second publish: %v, want ErrExist", err)
	}
	if err := Publish(filepath.Join(dir, "gone"), filepath.Join(dir, "y")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("publish of nothing: %v, want ErrNotExist", err)
	}
}

func TestExchangeLeavesBothNames(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, path := range []string{a, b} {
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "in"), []byte(path), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Exchange(a, b); err != nil {
		t.Fatal(err)
	}
	for path, was := range map[string]string{a: b, b: a} {
		if got, err := os.ReadFile(filepath.Join(path, "in")); err != nil || string(got) != was {
			t.Errorf("%s holds what %q held, want %q (%v)", path, got, was, err)
		}
	}
	if err := Exchange(a, filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("exchange with nothing: %v, want ErrNotExist", err)
	}
}

func TestTrashKeepsEverythingItIsGiven(t *testing.T) {
	dir := t.TempDir()
	if err := Mkdir(filepath.Join(dir, "trash", "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		path := filepath.Join(dir, "same-name")
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Trash(path, filepath.Join(dir, "trash", "run")); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(names(t, filepath.Join(dir, "trash", "run"))); got != 3 {
		t.Errorf("%d entries in the trash, want 3", got)
	}
}

func TestMkdirSaysWhenAFileIsInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(path, "below")} {
		if err := Mkdir(p, 0o700); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Mkdir(%s): %v, want ENOTDIR", p, err)
		}
	}
}

func TestSyncTreeWalksAllAndFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := Mkdir(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	if err := SyncTree(dir); err != nil {
		t.Error(err)
	}
	if err := SyncTree(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing tree: %v, want ErrNotExist", err)
	}
}

func TestStepKillsAtTheNamedVisitOnly(t *testing.T) {
	if out := os.Getenv("DURABLE_TEST_OUT"); out != "" {
		for _, s := range []string{"a", "b", "a", "c"} {
			Step("test." + s)
			f, _ := os.OpenFile(out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			f.WriteString(s)
			f.Close()
		}
		return
	}
	for _, tc := range []struct {
		at, want string
		killed   bool
	}{
		{"", "abac", false},
		{"test.none", "abac", false},
		{"test.a", "", true},
		{"test.a#1", "", true},
		{"test.a#2", "ab", true},
		{"test.a#3", "abac", false},
		{"test.c", "aba", true},
	} {
		t.Run(tc.at, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			cmd := exec.Command(os.Args[0], "-test.run=^TestStepKillsAtTheNamedVisitOnly$")
			cmd.Env = append(os.Environ(), "DURABLE_TEST_OUT="+out, KillAt+"="+tc.at)
			err := cmd.Run()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != tc.killed {
				t.Errorf("killed %v (%v), want %v", killed, err, tc.killed)
			}
			got, _ := os.ReadFile(out)
			if string(got) != tc.want {
				t.Errorf("ran %q, want %q", got, tc.want)
			}
		})
	}
}

func TestStepsAreLogged(t *testing.T) {
	log := filepath.Join(t.TempDir(), "steps")
	t.Setenv(StepLog, log)
	for _, s := range []string{"a", "b", "a"} {
		Step("test." + s)
	}
	if got, err := os.ReadFile(log); err != nil || string(got) != "test.a\ntest.b\ntest.a\n" {
		t.Errorf("logged %q, %v", got, err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

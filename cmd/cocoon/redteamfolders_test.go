package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// slips of an admin, and of a host that has not mounted everything yet: what
// becomes of one folder of a store.
var slips = map[string]func(t *testing.T, folder, other string){
	"emptied": func(t *testing.T, folder, _ string) { mkdir(t, folder) },
	"missing": func(*testing.T, string, string) {},
	"swapped": func(t *testing.T, folder, other string) { copyTree(t, other, folder) },
	"another volume": func(t *testing.T, folder, _ string) { // an empty one is mounted there
		mkdir(t, folder)
		if err := unix.Mount("none", folder, "tmpfs", 0, "mode=0700,size=64m"); err != nil {
			t.Fatal(err)
		}
	},
	"half": func(t *testing.T, folder, _ string) { // a backup that is being restored
		mkdir(t, folder)
		entries, err := os.ReadDir(folder + ".aside")
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if i%2 == 0 && e.IsDir() {
				copyTree(t, filepath.Join(folder+".aside", e.Name()), filepath.Join(folder, e.Name()))
			}
		}
	},
}

// careless are the verbs that remove what nobody named, that make something, and
// some that only look.
var careless = [][]string{
	{"snapshot", "list"},
	{"gc"},
	{"snapshot", "create", "stopped", "three"},
	{"vm", "create", "clone", "--from-snapshot", "one"},
	{"image", "import", "disk.raw", "--name", "again"},
	{"gc"},
	{"gc", "--prune"},
	{"gc", "--repack"},
	{"system", "doctor", "--fix"},
	{"system", "repair"},
	{"refs", "--rebuild"},
	{"vm", "list"},
	{"gc"},
}

// TestRedTeamOfSlips: with any folder of the store emptied, missing, swapped with
// that of another store or half restored, no verb takes what a backup could still
// save: with the folder back in its place everything is as it was.
func TestRedTeamOfSlips(t *testing.T) {
	t.Parallel()
	vmm := chsnaptest.Build(t)
	other := slipStore(t, vmm)
	for _, folder := range []string{"snapshots", "blobs", "images", "vms"} {
		for name, slip := range slips {
			t.Run(folder+" "+name, func(t *testing.T) {
				t.Parallel()
				h := slipStore(t, vmm)
				h.must("gc") // what is there now is known
				before := contents(t, h.root)
				at := filepath.Join(h.root, folder)
				rename(t, at, at+".aside")
				slip(t, at, filepath.Join(other.root, folder))
				for _, verb := range careless {
					c, _, stderr := h.command(verb)
					_ = c.Run() // it may refuse
					if code := c.ProcessState.ExitCode(); code < 0 || strings.Contains(stderr.String(), "goroutine ") {
						t.Errorf("cocoon %s broke down (%d): %s", strings.Join(verb, " "), code, stderr)
					}
				}
				thaw(h.root)
				if name == "another volume" {
					if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.RemoveAll(at); err != nil {
					t.Fatal(err)
				}
				rename(t, at+".aside", at)
				// repair may have noted in meta.json that a snapshot lacks something.
				lost := slices.DeleteFunc(differ(before, contents(t, h.root)), func(path string) bool {
					rel, _ := filepath.Rel(h.root, path)
					_, err := os.Stat(path)
					return !slices.Contains([]string{"snapshots", "blobs", "images", "vms", "pins"}, strings.Split(rel, "/")[0]) ||
						filepath.Base(path) == "meta.json" && err == nil
				})
				if len(lost) > 0 {
					t.Fatalf("lost or changed: %v", lost)
				}
				h.must("system", "repair")
				h.must("snapshot", "verify", "--all", "--read-data")
				h.must("vm", "start", "stopped")
				h.must("vm", "start", "sleeps")
			})
		}
	}
}

// slipStore has a stopped VM with a disk, one that sleeps, an image and two
// snapshots.
func slipStore(t *testing.T, vmm string) *host {
	t.Helper()
	h := newHost(t, vmm)
	t.Cleanup(func() { thaw(h.root) }) // doctor --fix makes images immutable
	h.must("image", "import", "disk.raw", "--name", "base")
	h.boot("stopped")
	h.must("snapshot", "create", "stopped", "one")
	h.must("snapshot", "create", "stopped", "two")
	h.must("vm", "create", "sleeps", "--from-snapshot", "one")
	h.must("vm", "suspend", "sleeps")
	h.must("vm", "stop", "stopped", "--timeout", "1s")
	return h
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if b, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, b)
	}
}

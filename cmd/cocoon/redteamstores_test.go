package main

import (
	"crypto/sha256"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// everyVerb is a command of each kind, on a store whose VMs and snapshots are
// named as those of neighbour: what they do to their own store does not matter.
var everyVerb = [][]string{
	{"vm", "list"},
	{"vm", "inspect", "runs"},
	{"vm", "logs", "runs"},
	{"vm", "pause", "runs"},
	{"vm", "resume", "runs"},
	{"snapshot", "create", "runs", "mine"},
	{"vm", "suspend", "runs"},
	{"vm", "start", "runs"},
	{"vm", "start", "sleeps"},
	{"vm", "restore", "runs", "base"},
	{"vm", "stop", "runs", "--timeout", "1s"},
	{"vm", "create", "clone", "--from-snapshot", "base"},
	{"snapshot", "list"},
	{"snapshot", "check", "base"},
	{"snapshot", "verify", "--all", "--read-data"},
	{"snapshot", "prune", "--keep-last", "0", "--group-by", "none"},
	{"snapshot", "rm", "--force", "base"},
	{"image", "list"},
	{"refs", "--rebuild"},
	{"system", "df"},
	{"system", "doctor"},
	{"system", "doctor", "--fix"},
	{"system", "repair"},
	{"vm", "rm", "--force", "runs"},
	{"vm", "rm", "--force", "sleeps"},
	{"vm", "rm", "--force", "clone"},
	{"gc", "--dry-run", "--explain"},
	{"gc", "--prune"},
	{"gc", "--repack"},
	{"gc"},
}

// TestRedTeamOfANeighbour: two stores with one run folder, as one forgotten
// --run-dir makes them. No verb of one costs the other a byte or a process, be it
// empty, full, or a copy of it.
func TestRedTeamOfANeighbour(t *testing.T) {
	t.Parallel()
	vmm := storeVMM(t)
	for _, kind := range []string{"new", "full", "copied"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ours := newHost(t, vmm)
			neighbour(ours)
			theirs := *ours
			t.Cleanup(func() { thaw(ours.root) })
			t.Cleanup(func() { thaw(theirs.root) })
			theirs.root = filepath.Join(t.TempDir(), "root")
			theirs.env = append(slices.Clone(ours.env), "COCOON_ROOT_DIR="+theirs.root)
			switch kind {
			case "full":
				neighbour(&theirs)
			case "copied":
				if b, err := exec.Command("cp", "-a", ours.root, theirs.root).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, b)
				}
			}
			pid := ours.vm("runs").PID
			before := contents(t, ours.root)
			for _, verb := range everyVerb {
				c, _, stderr := theirs.command(verb)
				_ = c.Run() // it may refuse
				if code := c.ProcessState.ExitCode(); code < 0 || strings.Contains(stderr.String(), "goroutine ") {
					t.Errorf("cocoon %s broke down (%d): %s", strings.Join(verb, " "), code, stderr)
				}
				if err := syscall.Kill(pid, 0); err != nil {
					t.Fatalf("cocoon %s of another store ended a VMM: %s", strings.Join(verb, " "), stderr)
				}
				if diff := differ(before, contents(t, ours.root)); len(diff) > 0 {
					t.Fatalf("cocoon %s of another store changed %v", strings.Join(verb, " "), diff)
				}
			}
			if got := ours.vm("runs"); got.State != "paused" || got.PID != pid {
				t.Errorf("the VM is %s with process %d, was paused with %d", got.State, got.PID, pid)
			}
			ours.must("vm", "resume", "runs")
			ours.counts("runs")
			ours.must("vm", "start", "sleeps")
			ours.counts("sleeps")
			ours.must("snapshot", "verify", "--all", "--read-data")
		})
	}
}

// neighbour fills a store: a VM that is paused, so that its files stay as they
// are, one that sleeps, and a snapshot.
func neighbour(h *host) {
	h.t.Helper()
	h.boot("runs")
	h.must("snapshot", "create", "runs", "base")
	h.must("vm", "create", "sleeps", "--from-snapshot", "base")
	h.must("vm", "suspend", "sleeps")
	h.must("vm", "pause", "runs")
}

// contents are the hashes of a store's files, by path. Locks say nothing, and the
// index is a cache.
func contents(t *testing.T, root string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == "lock" || strings.HasSuffix(path, ".lock") {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// differ lists the paths whose contents are not what they were; new ones are no
// loss.
func differ(before, after map[string][32]byte) []string {
	var out []string
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after[path] != before[path] {
			out = append(out, path)
		}
	}
	return out
}

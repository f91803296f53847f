package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAStoreOfAnEarlierProgram opens and stays whole. Each has two snapshots of a
// stopped VM, a suspended VM, an image, and the blobs of a third snapshot that was
// removed. version1 was made by a program without an account of what a store holds,
// without a count of how often VMs were woken, and without an identity; version2 by
// one that had them, and kept names, summaries, families and holders of blobs in
// derived files of four kinds.
func TestAStoreOfAnEarlierProgram(t *testing.T) {
	t.Parallel()
	vmm := chsnaptest.Build(t)
	for name, explained := range map[string]bool{"version1": false, "version2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opensAndStaysWhole(t, newHost(t, vmm), name, explained)
		})
	}
}

// opensAndStaysWhole: where the store explains the blobs that nothing names any
// more, by its account, the first gc removes them; else it doubts, and leaves them.
func opensAndStaysWhole(t *testing.T, h *host, name string, explained bool) {
	t.Helper()
	tar := exec.Command("tar", "-C", filepath.Dir(h.root), "--numeric-owner", "-xzf", absolute(t, "testdata/stores/"+name+".tar.gz"))
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	whole := func() {
		t.Helper()
		h.must("snapshot", "verify", "--all", "--read-data")
		for what, want := range map[string]string{
			"{{.Name}} {{.State}} {{.Protected}}": "first ready true,second ready false",
		} {
			got := strings.Fields(strings.ReplaceAll(h.must("snapshot", "list", "--vm", "web", "--format", what), " ", "_"))
			slices.Sort(got)
			if all := strings.ReplaceAll(strings.Join(got, ","), "_", " "); all != want {
				t.Errorf("snapshots: %s, want %s", all, want)
			}
		}
		if got := h.must("image", "list", "--format", "{{.Name}}"); got != "base" {
			t.Errorf("images: %s", got)
		}
	}
	whole()
	collect := func(env ...string) (rep gc.Report) {
		t.Helper()
		c, out, stderr := h.command([]string{"gc", "--format", "json"}, env...)
		if err := c.Run(); err != nil {
			t.Fatalf("gc: %v: %s", err, stderr)
		}
		if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
			t.Fatal(err)
		}
		return rep
	}
	for round := range 2 {
		rep := collect()
		orphans := slices.ContainsFunc(rep.Removed, func(r gc.Removed) bool { return r.Kind == "blob" })
		others := slices.ContainsFunc(rep.Removed, func(r gc.Removed) bool { return r.Kind != "blob" && r.Kind != "cache" })
		doubts := len(rep.Doubtful) == 1 && rep.Doubtful[0].Kind == "blob"
		if orphans != (explained && round == 0) || others || len(rep.Lost) > 0 || doubts == explained {
			t.Errorf("round %d: removed %+v, lost %+v, doubtful %+v", round, rep.Removed, rep.Lost, rep.Doubtful)
		}
		whole()
	}
	if to, err := os.Readlink(filepath.Join(h.root, "names", "first")); err != nil || !strings.HasPrefix(to, "../snapshots/") {
		t.Errorf("the name of a snapshot leads to %q, %v", to, err)
	}
	if _, err := os.Lstat(filepath.Join(h.root, "cache", "names")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of names stays: %v", err)
	}
	h.must("vm", "start", "asleep", "--allow-incompatible")
	h.counts("asleep")
	h.must("vm", "create", "again", "--from-snapshot", "first", "--allow-incompatible")
	h.counts("again")
	h.must("vm", "start", "web")
	h.counts("web")
	twice, _, stderr := h.command([]string{"snapshot", "create", "web", "first"})
	if _ = twice.Run(); twice.ProcessState.ExitCode() != 4 {
		t.Errorf("a name twice: exit %d: %s", twice.ProcessState.ExitCode(), stderr)
	}
	h.must("snapshot", "create", "web", "third")
	rep := collect("COCOON_GC_GRACE=0")
	if !slices.ContainsFunc(rep.Removed, func(r gc.Removed) bool { return r.Kind == "blob" }) || len(rep.Lost)+len(rep.Doubtful) > 0 {
		t.Errorf("without grace: removed %+v, lost %+v, doubtful %+v", rep.Removed, rep.Lost, rep.Doubtful)
	}
	h.must("snapshot", "rm", "third")
	whole()
	h.must("vm", "rm", "-f", "asleep", "again", "web")
	h.clean("first", "second")
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

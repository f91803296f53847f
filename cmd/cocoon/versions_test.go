package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestSnapshotsGoWhereTheVMMPromises, with real binaries of several versions in
// all directions: COCOON_TEST_VMMS names the folders that each has a
// cloud-hypervisor in. What is promised works, a suspended VM too, by the way that
// check names; what is not is exit 6 before anything starts.
func TestSnapshotsGoWhereTheVMMPromises(t *testing.T) {
	t.Parallel()
	var vmms []string
	for _, dir := range filepath.SplitList(os.Getenv("COCOON_TEST_VMMS")) {
		path := filepath.Join(dir, "cloud-hypervisor")
		if _, err := os.Stat(path); err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		vmms = append(vmms, path)
	}
	if len(vmms) < 2 {
		t.Skipf("COCOON_TEST_VMMS names %d binaries of Cloud Hypervisor; set it to folders with two at least, separated by colons", len(vmms))
	}
	versions := map[string]chsnap.Version{}
	for _, path := range vmms {
		v, err := chsnap.AskVersion(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		versions[path] = v
	}
	for _, made := range vmms {
		for _, here := range vmms {
			passage := versions[here].Takes(versions[made].Package)
			t.Run(versions[made].String()+" into "+versions[here].String(), func(t *testing.T) {
				t.Parallel()
				h := newHost(t, made)
				args := []string{"vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--start"}
				if chsnap.Major(versions[made].Package) >= 53 { // v52 offers the guest's driver of disks what it does not know
					args = append(args, "--disk", "disk.raw")
				}
				h.must(args...)
				h.counts("web")
				h.must("snapshot", "create", "web", "saved")
				h.must("vm", "create", "asleep", "--from-snapshot", "saved")
				h.counts("asleep")
				h.env = append(h.env, "COCOON_HYPERVISOR="+here)
				if passage == chsnap.NoWay {
					h.refusedByVersion(versions[made], versions[here])
					return
				}
				if said := h.must("snapshot", "check", "saved"); passage == chsnap.ByMigration && !strings.Contains(said, `"mode": "stream"`) {
					t.Errorf("check names another way: %s", said)
				}
				h.must("vm", "create", "clone", "--from-snapshot", "saved")
				h.counts("clone")
				h.must("vm", "suspend", "asleep")
				last := h.tick("asleep")
				h.must("vm", "start", "asleep")
				h.goesOn("asleep", last)
				h.must("vm", "restore", "web", "saved")
				h.counts("web")
				if passage == chsnap.ByMigration {
					h.refuses(6, "by migration only", "vm", "create", "x", "--from-snapshot", "saved", "--restore-mode", "copy")
				}
				h.clean("saved")
			})
		}
	}
}

// refusedByVersion: nothing restores, and a VM that runs under the other VMM is
// not suspended, for it could not be woken.
func (h *host) refusedByVersion(made, here chsnap.Version) {
	h.t.Helper()
	for _, verb := range [][]string{
		{"snapshot", "check", "saved"},
		{"vm", "create", "x", "--from-snapshot", "saved"},
		{"vm", "restore", "web", "saved"},
		{"vm", "suspend", "web"},
	} {
		h.refuses(6, here.String(), verb...)
		h.refuses(6, made.String(), verb...)
	}
	h.counts("web")
	h.clean("saved")
}

// TestAVMMBuiltFromGitTakesItsOwnSnapshots: it calls itself by two versions, one
// when it is asked on its socket, another when it is asked for its version.
func TestAVMMBuiltFromGitTakesItsOwnSnapshots(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t), "CHSIM_VERSION=54.0.0", "CHSIM_BUILD=v53.0-246-gae44c2971")
	h.boot("web")
	h.must("snapshot", "create", "web", "saved")
	if said := h.must("snapshot", "inspect", "saved"); !strings.Contains(said, `"version": "54.0.0"`) || !strings.Contains(said, `"vmmBuild": "v53.0-246-gae44c2971"`) {
		t.Errorf("what made it is not said: %s", said)
	}
	h.must("snapshot", "check", "saved")
	h.must("vm", "create", "clone", "--from-snapshot", "saved", "--restore-mode", "copy")
	h.counts("clone")
	h.must("vm", "suspend", "web")
	last := h.tick("web")
	h.must("vm", "start", "web")
	h.goesOn("web", last)
	h.clean("saved")

	// A release before it is told both words, and takes nothing of it.
	c, _, stderr := h.command([]string{"vm", "create", "x", "--from-snapshot", "saved"}, "CHSIM_VERSION=53.0.0", "CHSIM_BUILD=v53.0")
	if err := c.Run(); c.ProcessState.ExitCode() != 6 || !strings.Contains(stderr.String(), "54.0.0 (v53.0-246-gae44c2971)") {
		t.Errorf("v53.0: %v: %s", err, stderr)
	}
	// One later takes it as the end of a migration.
	c, out, stderr := h.command([]string{"snapshot", "check", "saved"}, "CHSIM_VERSION=55.0.0", "CHSIM_BUILD=v55.0")
	if err := c.Run(); err != nil || !strings.Contains(out.String(), `"mode": "stream"`) {
		t.Errorf("v55.0: %v: %s%s", err, out, stderr)
	}
}

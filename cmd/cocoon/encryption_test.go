package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// inTheClear: of the blobs below a folder, one of a plain snapshot holds what the
// VMM's state begins with, and no blob that is younger than the first sealed one.
func inTheClear(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: clear FOLDER")
	}
	var open, closed int
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		switch {
		case bytes.HasPrefix(b, []byte("COCOSEAL")):
			closed++
		case bytes.Contains(b, []byte("snapshot_data")) || bytes.Contains(b, []byte("device-manager")):
			open++
		}
		return err
	}))
	if open != 1 || closed < 2 {
		ts.Fatalf("%d states lie in the clear and %d documents are sealed: only the plain snapshot's may be open", open, closed)
	}
}

// TestKillEncryptedCaptures kills encrypted captures at each step, the first of
// which makes the store one of encrypted snapshots.
func TestKillEncryptedCaptures(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	encrypted(h)
	v := h.boot("web")
	for _, step := range slices.Concat(encryptSteps, commitSteps) {
		h.killed(step, "snapshot", "create", "web", "saved")
		h.runsWithin(v, 100*time.Millisecond)
		h.clean()
		h.must("snapshot", "create", "web")
	}
	h.clean()
	h.counts("web")
}

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store"
)

// spoilPack flips one bit in the first pack that a snapshot names: in its middle
// frame, which holds RAM, or in its index. Before RAM stand disk pages that the
// guest may overwrite before the capture ends: of those there is no other copy.
// inspected is the answer of snapshot inspect.
func spoilPack(root, inspected, part string) error {
	var rows []struct{ Path string }
	if err := json.Unmarshal([]byte(inspected), &rows); err != nil || len(rows) != 1 {
		return fmt.Errorf("inspect: %w, %d rows", err, len(rows))
	}
	b, err := os.ReadFile(filepath.Join(rows[0].Path, "manifest.json"))
	if err != nil {
		return err
	}
	var m struct{ Layers []store.Descriptor }
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if l.MediaType != store.MediaTypePack {
			continue
		}
		path := filepath.Join(root, "blobs", "sha256", l.Digest.Encoded())
		if b, err = os.ReadFile(path); err != nil {
			return err
		}
		at := len(b) - 80
		if part == "frame" { // of a plain pack
			at = middleFrame(b) + 60
		}
		b[at] ^= 1
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o600)
	}
	return fmt.Errorf("no pack in %s", rows[0].Path)
}

// middleFrame is where the middle one of a pack's frames begins; the layout is
// that of docs/format.md.
func middleFrame(b []byte) (at int) {
	tail := b[len(b)-64:]
	table := b[binary.LittleEndian.Uint64(tail)+8:]
	for i := range binary.LittleEndian.Uint32(tail[8:]) / 2 {
		at += int(binary.LittleEndian.Uint32(table[8*i:]))
	}
	return at
}

// rot frame|index: bit rot in a pack of the snapshot first.
func rot(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("cocoon", "snapshot", "inspect", "first"))
	ts.Check(spoilPack(ts.Getenv("COCOON_ROOT_DIR"), ts.ReadFile("stdout"), args[0]))
}

// TestKilledRepairGoesOn: whatever step a repair dies at, the next one ends it.
func TestKilledRepairGoesOn(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for _, step := range repairSteps {
		if err := spoilPack(h.root, h.must("snapshot", "inspect", "base"), "index"); err != nil {
			t.Fatal(err)
		}
		verify, _, _ := h.command([]string{"snapshot", "verify", "--all", "--read-data", "--quarantine"})
		if err := verify.Run(); verify.ProcessState.ExitCode() != 5 {
			t.Fatalf("verify: %v", err)
		}
		h.killed(step, "system", "repair")
		h.must("system", "repair")
		h.clean("base")
		h.must("vm", "create", "again", "--from-snapshot", "base")
		h.must("vm", "rm", "-f", "again")
	}
	h.counts("web")
}

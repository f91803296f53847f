package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/restore"
)

// TestAGuestOfAFasterHostsCounter: a snapshot whose guest's time stamp counter
// went more slowly than a processor does that cannot show another frequency is
// refused in the plan, whatever the mode, with both figures; who tries all the
// same gets a guest that goes on.
func TestAGuestOfAFasterHostsCounter(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	here, err := restore.ReadHost(t.Context(), vmm)
	if err != nil {
		t.Fatal(err)
	}
	if here.TSC.KHz == 0 || here.TSC.Scales {
		t.Skipf("this host takes any frequency: %+v", here.TSC)
	}
	h := newHost(t, vmm)
	folder := h.foreign(vmm, []string{"--memory", "size=64M"})
	path := filepath.Join(folder, "state.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := regexp.MustCompile(`(\\"tsc_khz\\":)(null|[0-9]+)`).ReplaceAll(b, []byte("${1}1000123"))
	if len(changed) == len(b) && string(changed) == string(b) {
		t.Fatal("the state has no frequency")
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("snapshot", "import", folder, "--name", "base")
	h.refuses(6, "1000.123 MHz", "snapshot", "check", "base")
	for _, mode := range []string{"auto", "map", "stream", "copy"} {
		h.refuses(6, "1000.123 MHz", "vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode)
		h.bare()
		h.must("vm", "create", mode, "--from-snapshot", "base", "--restore-mode", mode, "--allow-incompatible")
		h.counts(mode)
	}
	// What it goes on with is this host's.
	h.must("vm", "suspend", "map")
	last := h.tick("map")
	h.must("vm", "start", "map")
	h.goesOn("map", last)
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/engine/doctor"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store"
)

// TestDoctorIsToldEverything: a check whose question nobody answers finds nothing
// wrong on any host.
func TestDoctorIsToldEverything(t *testing.T) {
	a := &app{config: house.Settings{}}
	st, err := store.Open(t.Context(), t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	h := a.doctor()
	ofStore(&h, &house.House{Store: st})
	v := reflect.ValueOf(h)
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.Type.Kind() == reflect.Func && v.Field(i).IsNil() {
			t.Errorf("nothing answers doctor's %s", f.Name)
		}
	}
}

// finding is what doctor saw of one thing.
func (h *host) finding(check string) (f doctor.Finding) {
	h.t.Helper()
	c, out, stderr := h.command([]string{"system", "doctor", "--format", "json"})
	_ = c.Run() // the host of the test may lack other things
	var all []doctor.Finding
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		h.t.Fatalf("%v: %s", err, stderr)
	}
	i := slices.IndexFunc(all, func(f doctor.Finding) bool { return f.Name == check })
	if i < 0 {
		h.t.Fatalf("it does not look at %s", check)
	}
	return all[i]
}

// TestDoctorTellsOfASharedName: the link of a name was removed by hand, and the name
// given again. What it says helps.
func TestDoctorTellsOfASharedName(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	first := strings.TrimSpace(h.must("snapshot", "create", "web", "a"))
	if f := h.finding("names"); f.Status != doctor.OK {
		t.Errorf("before: %+v", f)
	}
	if err := os.Remove(filepath.Join(h.root, "names", "a")); err != nil {
		t.Fatal(err)
	}
	second := strings.TrimSpace(h.must("snapshot", "create", "web", "a"))
	h.must("gc")
	f := h.finding("names")
	if f.Status != doctor.Warn || !strings.Contains(f.Seen, first) || !strings.Contains(f.Seen, second) || !strings.Contains(f.Remedy, "cocoon snapshot rename ID NAME") {
		t.Errorf("%+v", f)
	}
	h.must("snapshot", "rename", first, "b")
	if f := h.finding("names"); f.Status != doctor.OK {
		t.Errorf("after a rename: %+v", f)
	}
	h.clean("a", "b")
}

// TestDoctorNamesAVMWithoutAKeeper, says what helps, and gives it none itself.
func TestDoctorNamesAVMWithoutAKeeper(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	keeper := h.keeperOf(h.boot("web"))
	found := func() doctor.Finding { return h.finding("keepers") }
	if f := found(); f.Status != doctor.OK {
		t.Errorf("with its keeper: %+v", f)
	}
	h.signal(keeper, unix.SIGKILL)
	h.gone(keeper)
	for range 2 {
		if f := found(); f.Status != doctor.Warn || !strings.Contains(f.Seen, "web") || !strings.Contains(f.Remedy, "--fix") {
			t.Errorf("without: %+v", f)
		}
	}
	h.must("vm", "list")
	if f := found(); f.Status != doctor.OK {
		t.Errorf("after another command: %+v", f)
	}
	h.counts("web")
}

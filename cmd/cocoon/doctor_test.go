package main

import (
	"encoding/json"
	"reflect"
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

// TestDoctorNamesAVMWithoutAKeeper, says what helps, and gives it none itself.
func TestDoctorNamesAVMWithoutAKeeper(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	keeper := h.keeperOf(h.boot("web"))
	found := func() (f doctor.Finding) {
		t.Helper()
		c, out, stderr := h.command([]string{"system", "doctor", "--format", "json"})
		_ = c.Run() // the host of the test may lack other things
		var all []doctor.Finding
		if err := json.Unmarshal(out.Bytes(), &all); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		for _, f := range all {
			if f.Name == "keepers" {
				return f
			}
		}
		t.Fatal("it does not look at keepers")
		return f
	}
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

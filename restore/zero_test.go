package restore

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

func TestAnEngineThatLacksSomethingRefuses(t *testing.T) {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	images := image.New(st)
	whole := Engine{Store: st, Images: images, VMs: vm.New(st, images, vm.Options{RunDir: t.TempDir()})}
	for name, e := range map[string]Engine{
		"nothing": {}, "a store only": {Store: st},
		"no store": {VMs: whole.VMs, Images: images}, "no VMs": {Store: st, Images: images}, "no images": {Store: st, VMs: whole.VMs},
	} {
		for verb, do := range map[string]func() error{
			"NewPlan":  func() error { _, err := e.NewPlan(t.Context(), Request{}); return err },
			"NewPlans": func() error { _, err := e.NewPlans(t.Context(), Request{}, []string{"a", "b"}); return err },
			"PlanExchange": func() error {
				_, err := e.PlanExchange(t.Context(), &vm.Record{ID: "0123456789abcdef"}, Request{})
				return err
			},
			"Try":         func() error { _, err := e.Try(t.Context(), &vm.Record{ID: "0123456789abcdef"}, Request{}); return err },
			"Wake":        func() error { _, err := e.Wake(t.Context(), "web", Request{}); return err },
			"Materialise": func() error { _, err := e.Materialise(t.Context(), "web"); return err },
			"ExportCH":    func() error { return e.ExportCH(t.Context(), "web", filepath.Join(t.TempDir(), "out"), nil) },
			"Recover":     func() error { return e.Recover(t.Context(), "journal") },
		} {
			if err := do(); !errors.Is(err, failure.Usage) {
				t.Errorf("%s with %s: %v, want Usage", verb, name, err)
			}
		}
	}
	if _, err := whole.NewPlan(t.Context(), Request{Snapshot: "x"}); !errors.Is(err, failure.Usage) {
		t.Errorf("without Host: %v, want Usage", err)
	}
	if _, err := whole.NewPlan(t.Context(), Request{Snapshot: "x", Cold: true}); !errors.Is(err, failure.NotFound) {
		t.Errorf("a cold boot asks no host: %v, want NotFound", err)
	}
}

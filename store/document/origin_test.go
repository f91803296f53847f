package document

import (
	"errors"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestNobodyPublishesWithoutAnOrigin(t *testing.T) {
	for name, o := range map[string]*Origin{"none": nil, "one that is captured": {Captured: true}, "one that says nothing": {}, "one that is lost": {Lost: true}} {
		if got, err := o.Now(true); !errors.Is(err, failure.Usage) {
			t.Errorf("taken in with %s: %+v, %v", name, got, err)
		}
	}
	folder := Meta{}
	if err := folder.Come(Spec{Capture: Capture{Mode: importMode}}); !errors.Is(err, failure.Usage) {
		t.Errorf("a folder of nobody: %v", err)
	}
	vm := Meta{Origin: &Origin{Imported: "x"}}
	if err := vm.Come(Spec{}); !errors.Is(err, failure.Usage) {
		t.Errorf("a VM that was imported: %v", err)
	}
}

package network

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestWhatANewerProgramAttachedIsNotGuessed: its record is not undone by what
// this program would have made, and can be given up.
func TestWhatANewerProgramAttachedIsNotGuessed(t *testing.T) {
	h := newHost(t)
	vm := "0123456789abcdef0123456789abcdef"
	rec := newRecord(h, Request{VM: vm, Network: "lan"}, &conflist{})
	rec.Version = recordVersion + 1
	b, err := json.Marshal(rec)
	path := h.recordPath(vm, "eth0")
	if err := errors.Join(err, os.Mkdir(h.recordsDir(), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	left, err := h.Leftovers(nil)
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	if err := h.RemoveVM(t.Context(), vm); !errors.Is(err, failure.Incompatible) {
		t.Errorf("undone: %v", err)
	}
	if err := h.undoEarlier(t.Context(), Request{VM: vm}); !errors.Is(err, failure.Incompatible) {
		t.Errorf("undone before it is made again: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("its record: %v", err)
	}
	if err := h.ForgetVM(t.Context(), vm); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(h.recordPath("*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

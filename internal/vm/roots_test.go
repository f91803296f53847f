package vm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/image"
	"github.com/cocoonv2/cocoon/store"
)

// TestANewerRecordIsReadButNotRewritten: this program shows what it knows of such
// a VM, and leaves it alone, since its next write would forget the rest.
func TestANewerRecordIsReadButNotRewritten(t *testing.T) {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	m := New(st, image.New(st), Options{RunDir: t.TempDir()})
	id := "0123456789abcdef0123456789abcdef"
	b, err := json.Marshal(Record{Version: 1, ID: id, Name: "web", State: "stopped"})
	newer := strings.Replace(string(b), `{"version":1`, `{"version":1,"overlay":"x"`, 1)
	if err := errors.Join(err, os.Mkdir(m.Dir(id), 0o700), os.WriteFile(m.recordPath(id), []byte(newer), 0o600)); err != nil {
		t.Fatal(err)
	}
	if rec, err := m.Get(t.Context(), "web"); err != nil || rec.ID != id {
		t.Errorf("inspect: %v", err)
	}
	if _, _, err := m.Lock(t.Context(), "web", "test"); !errors.Is(err, failure.Incompatible) || failure.Code(err) != 6 || failure.HintOf(err) == "" {
		t.Errorf("a verb that changes it: %v", err)
	}
	if after, err := os.ReadFile(m.recordPath(id)); err != nil || string(after) != newer {
		t.Errorf("its record became %s (%v)", after, err)
	}
	if _, err := readRoot(m.recordPath(id)); !errors.Is(err, failure.Damaged) {
		t.Errorf("as a root: %v", err)
	}
}

package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// FuzzJournal: a journal has the VM of its file name taken apart, or nobody.
func FuzzJournal(f *testing.F) {
	st, err := store.Open(f.Context(), filepath.Join(f.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		f.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	path, err := writeJournal(st, Journal{VM: id, Snapshot: id, Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"vm":"../0123456789abcdef0123456789abcdef"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		switch j, err := readJournal(path); {
		case err == nil && j.VM != id:
			t.Errorf("%q names VM %q", b, j.VM)
		case err != nil && !errors.Is(err, failure.Damaged):
			t.Errorf("%q: %v is no damage", b, err)
		}
	})
}

package trash

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/store/layout"
)

func store(t *testing.T) *layout.Layout {
	t.Helper()
	at, err := layout.Open(t.Context(), filepath.Join(t.TempDir(), "root"), true)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestARemovalStaysKnownUntilItIsForgotten: emptied by whom it may be, by the verb
// or by a collector, and whether a folder or a file was removed.
func TestARemovalStaysKnownUntilItIsForgotten(t *testing.T) {
	at := store(t)
	tr := In(at)
	all := Collector{tr}
	folder, file := at.Path("vms", "some-vm"), at.Path("pins", "p.json")
	if err := errors.Join(os.MkdirAll(filepath.Join(folder, "disks"), 0o700), os.WriteFile(file, []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for kind, path := range map[string]string{"vm": folder, "pin": file} {
		trashed, err := tr.Remove(kind, "some-"+kind, path)
		if err := errors.Join(err, Clear(trashed)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(at.Path("trash", "gc-half", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := all.Empty(t.Context(), func(name string, err error) { t.Errorf("%s stays: %v", name, err) }); err != nil {
			t.Fatal(err)
		}
	}
	traces, err := tr.Traces()
	if err != nil || len(traces) != 2 {
		t.Fatalf("traces %+v, %v", traces, err)
	}
	for _, trace := range traces {
		if trace.ID != "some-"+trace.Kind || !tr.IsTrace(trace.Entry) {
			t.Errorf("trace %+v", trace)
		}
	}
	if err := all.Forget(traces); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(at.Path("trash")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestOnlyAnImageIsThawed: what else an operator made immutable is not discarded.
func TestOnlyAnImageIsThawed(t *testing.T) {
	at := store(t)
	r := In(at).Run()
	image, blob := at.Path("images", "blobs", "sha256", "i"), at.Path("blobs", "sha256", "b")
	if err := r.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{image, blob} {
		if err := os.WriteFile(path, nil, 0o400); err != nil {
			t.Fatal(err)
		}
		if err := immutableUntilTheEnd(t, path); err != nil {
			t.Skipf("the file system of %s has no such attribute: %v", path, err)
		}
	}
	err := r.Window(t.Context(), func(w *Window) error {
		if err := w.Discard(blob); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a blob that somebody made immutable: %v", err)
		}
		return w.Discard(image)
	})
	if err := errors.Join(err, r.Settle(), r.Empty()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(blob); err != nil {
		t.Error(err)
	}
}

package gc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/store/ramcache"
)

// Whoever leaves an option out has asked for nothing to be taken.
func TestOptionsThatSayNothingTakeNothingDoubtful(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "a")
	o := Options{Sources: sources(s)}
	if none := (ramcache.Cap{}); none.Bytes() < 1<<60 {
		t.Errorf("a cap that was left out is one of %d bytes", none.Bytes())
	}
	vm := s.Path("vms", "0123456789abcdef0123456789abcdef")
	if err := errors.Join(os.MkdirAll(vm, 0o700), os.WriteFile(filepath.Join(vm, "disk-0.raw"), []byte("of a VM"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rep, err := Collect(t.Context(), s, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Removed) > 0 || len(rep.Doubtful) != 1 {
			t.Errorf("removed %v, doubtful %v", rep.Removed, rep.Doubtful)
		}
	}
	if _, err := Collect(t.Context(), s, Options{}); err == nil {
		t.Error("a store was collected without sources")
	}
}

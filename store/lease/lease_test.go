package lease

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/trash"
)

const someID = "0123456789abcdef0123456789abcdef"

// TestALeaseLivesAsLongAsItsHolder: while he lives it is read, in pieces too, and
// not reaped; when he dies it goes with his ingest, and not before.
func TestALeaseLivesAsLongAsItsHolder(t *testing.T) {
	at, err := layout.Open(t.Context(), filepath.Join(t.TempDir(), "root"), true)
	if err != nil {
		t.Fatal(err)
	}
	all := Of(at)
	l, err := all.Make(t.Context(), "a test\nof two lines")
	if err != nil {
		t.Fatal(err)
	}
	_, read, err := all.Read(l.ID(), 0)
	d := digest.FromString("x")
	if err := errors.Join(err, l.Hold(t.Context(), d), l.HoldSnapshot(t.Context(), someID), l.HoldVM(t.Context(), someID), os.Mkdir(at.Path("ingest", l.ID()), 0o700)); err != nil {
		t.Fatal(err)
	}
	later, _, err := all.Read(l.ID(), read)
	if err != nil || !slices.Equal(later.Digests, []digest.Digest{d}) || !slices.Equal(later.Snapshots, []layout.ID{someID}) || !slices.Equal(later.VMs, []string{someID}) || later.Purpose != "" {
		t.Errorf("what was written since: %+v, %v", later, err)
	}
	if live, err := all.Live(t.Context()); err != nil || len(live) != 1 || live[0].Purpose != "a test of two lines" {
		t.Errorf("live %+v, %v", live, err)
	}
	reap(t, at, l.ID(), false)
	if err := unix.Flock(int(l.File().Fd()), unix.LOCK_UN); err != nil { // as death does
		t.Fatal(err)
	}
	if live, err := all.Live(t.Context()); err != nil || len(live) != 0 {
		t.Errorf("live after the death: %+v, %v", live, err)
	}
	reap(t, at, l.ID(), true)
	for _, folder := range []string{"leases", "ingest"} {
		if left, err := os.ReadDir(at.Path(folder)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", folder, left, err)
		}
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func reap(t *testing.T, at *layout.Layout, id string, want bool) {
	t.Helper()
	run := trash.In(at).Run()
	err := errors.Join(run.Prepare(), run.Window(t.Context(), func(w *trash.Window) error {
		reaped, err := Of(at).Reap(w, id)
		if reaped != want {
			t.Errorf("reaped %v, want %v", reaped, want)
		}
		return err
	}), run.Settle(), run.Empty())
	if err != nil {
		t.Error(err)
	}
}

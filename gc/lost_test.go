package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

const otherVM = "fedcba9876543210fedcba9876543210"

// full is a store with one of everything, which was collected.
type full struct {
	*store.Store
	first, bed *store.Snapshot
}

func fullStore(t *testing.T) full {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "root"))
	f := full{Store: s, first: mustPublish(t, s, "a", "shared"), bed: mustPublish(t, s, "ram", "shared")}
	mustPublish(t, s, "b")
	images := []digest.Digest{digest.FromString("1"), digest.FromString("2"), digest.FromString("3")}
	for _, d := range images {
		if err := os.WriteFile(s.ImageBlobPath(d), []byte(d), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	writeVM(t, s, someVM, images[0])
	if err := os.WriteFile(s.Path("vms", someVM, "disk-0.raw"), []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeVM(t, s, otherVM)
	suspend(t, f, 0)
	writeJSON(t, s.Path("images", "disk.json"), image.Record{ID: images[1], Name: "disk"})
	writeJSON(t, s.Path("pins", "p.json"), map[string]any{"digests": images[2:]})
	if rep := collect(t, s, Options{}); len(rep.Removed) > 0 {
		t.Fatalf("the first run removes %+v", rep.Removed)
	}
	return f
}

// suspend lets the other VM, which runs no more, sleep on its bed.
func suspend(t *testing.T, f full, woken int) {
	t.Helper()
	rec := vm.Record{Version: 1, ID: otherVM, Name: "asleep", State: "running", Woken: woken}
	writeJSON(t, f.Path("vms", otherVM, "record.json"), rec)
	writeJSON(t, f.Path("vms", otherVM, sleep.File), vm.Sleep{Version: 1, Snapshot: f.bed.ID, Record: &rec})
	relabel(t, f, map[string]string{sleep.Label: sleep.LabelOf(otherVM, woken)})
}

func relabel(t *testing.T, f full, labels map[string]string) {
	t.Helper()
	writeJSON(t, filepath.Join(f.bed.Dir, "meta.json"), store.Meta{Labels: labels})
}

// filesOf are the files of a store that hold what is the user's.
func filesOf(t *testing.T, s *store.Store) []string {
	t.Helper()
	var all []string
	for _, folder := range []string{"snapshots", "blobs", "images", "vms", "pins"} {
		err := filepath.WalkDir(s.Path(folder), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all = append(all, path)
			}
			return nil // a folder that the test has taken away
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestNothingGoesWhenSomethingVanished, by no verb of ours, whatever it was; when
// it is back all is as before.
func TestNothingGoesWhenSomethingVanished(t *testing.T) {
	aside := func(elem ...string) func(f full) (func() error, error) {
		return func(f full) (func() error, error) {
			path := f.Path(elem...)
			return func() error { return os.Rename(path+".bak", path) }, os.Rename(path, path+".bak")
		}
	}
	emptied := func(elem ...string) func(f full) (func() error, error) {
		return func(f full) (func() error, error) {
			path := f.Path(elem...)
			back := func() error { return errors.Join(os.Remove(path), os.Rename(path+".bak", path)) }
			return back, errors.Join(os.Rename(path, path+".bak"), os.Mkdir(path, 0o700))
		}
	}
	for name, tc := range map[string]struct {
		harm func(f full) (back func() error, err error)
		kind garbage.Kind
	}{
		"snapshots emptied":  {emptied("snapshots"), "folder"},
		"blobs emptied":      {emptied("blobs", "sha256"), "folder"},
		"vms emptied":        {emptied("vms"), "folder"},
		"image blobs, empty": {emptied("images", "blobs", "sha256"), "folder"},
		"pins emptied":       {emptied("pins"), "folder"},
		"a snapshot aside":   {func(f full) (func() error, error) { return aside("snapshots", string(f.first.ID))(f) }, "snapshot"},
		"a manifest aside": {func(f full) (func() error, error) {
			return aside("snapshots", string(f.first.ID), "manifest.json")(f)
		}, "snapshot"},
		"the record of a VM aside": {aside("vms", someVM, "record.json"), "vm"},
		"a VM aside":               {aside("vms", someVM), "vm"},
		"a suspension aside":       {aside("vms", otherVM, sleep.File), garbage.Asleep},
		"an image record aside":    {aside("images", "disk.json"), "image"},
		"a pin aside":              {aside("pins", "p.json"), "pin"},
	} {
		t.Run(name, func(t *testing.T) {
			f := fullStore(t)
			orphan := litter(t, f.Store, 1)[0]
			back, err := tc.harm(f)
			if err != nil {
				t.Fatal(err)
			}
			before := filesOf(t, f.Store)
			for _, o := range []Options{{DryRun: true}, {}, {}} {
				rep, err := run(t.Context(), f.Store, o)
				if !errors.Is(err, failure.Damaged) || failure.Code(err) != 5 || !strings.Contains(failure.HintOf(err), "--accept-loss") {
					t.Fatalf("gc: %v", err)
				}
				if !rep.Refused || !rep.DryRun || !slices.ContainsFunc(rep.Lost, func(l Lost) bool { return l.Kind == tc.kind }) {
					t.Errorf("refused %v, dry run %v, lost %+v", rep.Refused, rep.DryRun, rep.Lost)
				}
			}
			if d := cmp.Diff(before, filesOf(t, f.Store)); d != "" {
				t.Errorf("the store changed (-before +after):\n%s", d)
			}
			if err := back(); err != nil {
				t.Fatal(err)
			}
			rep := collect(t, f.Store, Options{})
			if len(rep.Removed) != 1 || rep.Removed[0].ID != "sha256:"+orphan.Encoded() {
				t.Errorf("with all back it removes %+v, want the orphan", rep.Removed)
			}
		})
	}
}

// TestACopyOfAllIsHeldToWhatItHolds: nothing is lost of a store that was copied as
// a whole, or that was restored from such a copy, unless something is missing in it.
func TestACopyOfAllIsHeldToWhatItHolds(t *testing.T) {
	f := fullStore(t)
	orphan := litter(t, f.Store, 1)[0]
	copied := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", f.Root(), copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := open(t, copied)
	rep := collect(t, s, Options{})
	if len(rep.Removed) != 1 || rep.Removed[0].ID != "sha256:"+orphan.Encoded() {
		t.Errorf("in the copy it removes %+v, want the orphan", rep.Removed)
	}
	again := filepath.Join(t.TempDir(), "again")
	if out, err := exec.Command("cp", "-a", copied, again).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s = open(t, again)
	if err := os.RemoveAll(s.Path("snapshots", string(f.first.ID))); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), s, Options{}); !errors.Is(err, failure.Damaged) {
		t.Errorf("a copy without a snapshot: %v", err)
	}
}

// TestALossIsAcceptedOnce: what would go is named before, and goes then.
func TestALossIsAcceptedOnce(t *testing.T) {
	f := fullStore(t)
	only := f.first.Spec.CHConfig
	if err := errors.Join(os.RemoveAll(f.first.Dir), os.Remove(f.Path("images", "disk.json"))); err != nil {
		t.Fatal(err)
	}
	dry, err := run(t.Context(), f.Store, Options{})
	if err == nil || len(dry.Lost) != 2 {
		t.Fatalf("lost %+v, %v", dry.Lost, err)
	}
	rep := collect(t, f.Store, Options{AcceptLoss: true})
	if d := cmp.Diff(dry.Removed, rep.Removed); d != "" {
		t.Errorf("what was named and what went (-named +went):\n%s", d)
	}
	if len(rep.Lost) != 2 || exists(f.BlobPath(only)) != (only == f.bed.Spec.CHConfig) {
		t.Errorf("lost %+v; the blob is there: %v", rep.Lost, exists(f.BlobPath(only)))
	}
	if rep := collect(t, f.Store, Options{}); len(rep.Removed)+len(rep.Lost) > 0 {
		t.Errorf("the next run: removed %+v, lost %+v", rep.Removed, rep.Lost)
	}
}

// TestWhatVerbsRemoveIsNotLost, however many between two runs.
func TestWhatVerbsRemoveIsNotLost(t *testing.T) {
	f := fullStore(t)
	if err := f.Remove(t.Context(), f.first.ID, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	nobody := func(context.Context, digest.Digest) ([]string, error) { return nil, nil }
	if err := image.New(f.Store).Remove(t.Context(), "disk", nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Trash().Remove("vm", someVM, f.Path("vms", someVM)); err != nil {
		t.Fatal(err)
	}
	rep := collect(t, f.Store, Options{})
	if len(rep.Lost) > 0 || len(rep.Removed) == 0 {
		t.Errorf("lost %+v, removed %+v", rep.Lost, rep.Removed)
	}
	if left, _ := os.ReadDir(f.Path("trash")); len(left) > 0 {
		t.Errorf("traces are left: %v", left)
	}
	if rep := collect(t, f.Store, Options{}); len(rep.Lost)+len(rep.Removed) > 0 {
		t.Errorf("a second run: %+v", rep)
	}
}

// TestARemovalBesideGCIsNotLost: its trace is there for the next run, whenever it
// comes.
func TestARemovalBesideGCIsNotLost(t *testing.T) {
	for _, step := range []string{"gc.reaped", "gc.marked", "gc.planned", "gc.settled", "gc.swept", "gc.noted"} {
		t.Run(step, func(t *testing.T) {
			f := fullStore(t)
			mustPublish(t, f.Store, "more") // so that there is something to note
			litter(t, f.Store, 3)
			halted(t, f.Store, step, func() {
				if err := f.Remove(t.Context(), f.first.ID, store.RemoveOptions{}); err != nil {
					t.Fatal(err)
				}
			})
			if rep := collect(t, f.Store, Options{}); len(rep.Lost) > 0 {
				t.Errorf("lost %+v", rep.Lost)
			}
			if rep := collect(t, f.Store, Options{}); len(rep.Lost)+len(rep.Removed) > 0 {
				t.Errorf("afterwards: lost %+v, removed %+v", rep.Lost, rep.Removed)
			}
			if left, _ := os.ReadDir(f.Path("trash")); len(left) > 0 {
				t.Errorf("traces are left: %v", left)
			}
		})
	}
}

// TestWhatVanishesWhileGCRunsIsSeen, before anything is taken.
func TestWhatVanishesWhileGCRunsIsSeen(t *testing.T) {
	f := fullStore(t)
	before := filesOf(t, f.Store)
	away := f.Path("snapshots") + ".bak"
	c, err := haltedAt(t, f.Store, "gc.reaped")
	if err := errors.Join(err, os.Rename(f.Path("snapshots"), away), os.Mkdir(f.Path("snapshots"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := c(); err == nil {
		t.Error("gc went on")
	}
	if err := errors.Join(os.Remove(f.Path("snapshots")), os.Rename(away, f.Path("snapshots"))); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, filesOf(t, f.Store)); d != "" {
		t.Errorf("the store changed (-before +after):\n%s", d)
	}
}

// TestAWokenVMIsNotLost: its record says so.
func TestAWokenVMIsNotLost(t *testing.T) {
	f := fullStore(t)
	writeJSON(t, f.Path("vms", otherVM, "record.json"), vm.Record{Version: 1, ID: otherVM, Name: "asleep", State: "running", Woken: 1})
	if err := os.Remove(f.Path("vms", otherVM, sleep.File)); err != nil {
		t.Fatal(err)
	}
	rep := collect(t, f.Store, Options{})
	if len(rep.Lost) > 0 || !slices.ContainsFunc(rep.Removed, func(r Removed) bool { return r.ID == string(f.bed.ID) }) {
		t.Errorf("lost %+v, removed %+v; want the snapshot that it slept on", rep.Lost, rep.Removed)
	}
}

// TestTheRAMOfAVMThatIsNotHereStays: of a root that was put back without vms/, and
// without an account, it is the only copy.
func TestTheRAMOfAVMThatIsNotHereStays(t *testing.T) {
	for name, lose := range map[string]func(f full) error{
		"no VMs":        func(f full) error { return errors.Join(os.RemoveAll(f.Path("vms")), os.Mkdir(f.Path("vms"), 0o700)) },
		"no suspension": func(f full) error { return os.Remove(f.Path("vms", otherVM, sleep.File)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := fullStore(t)
			if err := errors.Join(lose(f), os.Remove(f.Path(account.File))); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				rep := collect(t, f.Store, Options{})
				if !exists(filepath.Join(f.bed.Dir, "manifest.json")) {
					t.Fatalf("removed %+v", rep.Removed)
				}
				if !slices.ContainsFunc(rep.Doubtful, func(d Doubtful) bool { return d.ID == string(f.bed.ID) && d.Until == nil }) {
					t.Errorf("doubtful %+v", rep.Doubtful)
				}
			}
		})
	}
}

// TestAStoreWithoutAnAccountIsTreatedWithCare: what was there before is left alone
// for a while, what comes since is not; and a store that has blobs and no snapshot
// at all is refused.
func TestAStoreWithoutAnAccountIsTreatedWithCare(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			f := fullStore(t)
			before := litter(t, f.Store, 3)
			outlive(t, f.BlobPath(before[2]))
			if err := lose(f.Path(account.File)); err != nil {
				t.Fatal(err)
			}
			o := Options{Grace: time.Hour}
			rep := collect(t, f.Store, o)
			if len(rep.Removed) > 0 || len(rep.Doubtful) != 1 || rep.Doubtful[0].Until == nil {
				t.Fatalf("removed %+v, doubtful %+v", rep.Removed, rep.Doubtful)
			}
			since := orphans(t, f.Store, "since")
			if rep := collect(t, f.Store, o); len(rep.Removed) != 2 || exists(f.BlobPath(since)) || len(rep.Doubtful) != 1 {
				t.Errorf("removed %+v, doubtful %+v", rep.Removed, rep.Doubtful)
			}
			for _, d := range before {
				if !exists(f.BlobPath(d)) {
					t.Errorf("%s is gone", d)
				}
			}
			if rep := collect(t, f.Store, Options{}); len(rep.Removed) != 3 {
				t.Errorf("when its grace is over: removed %+v", rep.Removed)
			}
		})
	}
	t.Run("no snapshots", func(t *testing.T) {
		f := fullStore(t)
		err := errors.Join(os.Remove(f.Path(account.File)), os.RemoveAll(f.Path("snapshots")), os.Mkdir(f.Path("snapshots"), 0o700),
			os.RemoveAll(f.Path("vms", otherVM)))
		if err != nil {
			t.Fatal(err)
		}
		before := filesOf(t, f.Store)
		for range 2 {
			if rep, err := run(t.Context(), f.Store, Options{}); failure.Code(err) != 5 || !rep.Refused {
				t.Fatalf("gc: %v", err)
			}
		}
		if d := cmp.Diff(before, filesOf(t, f.Store)); d != "" {
			t.Errorf("the store changed (-before +after):\n%s", d)
		}
		if rep := collect(t, f.Store, Options{AcceptLoss: true}); len(rep.Removed) == 0 || len(blobs(t, f.Store)) > 0 {
			t.Errorf("accepted: %+v", rep)
		}
	})
}

// outlive waits until what happens is younger than a file, by the file system's
// clock.
func outlive(t *testing.T, path string) {
	t.Helper()
	was, err := stampOf(path)
	for now := was; err == nil && now.ctime <= was.ctime; {
		probe := filepath.Join(t.TempDir(), "probe")
		if err = os.WriteFile(probe, nil, 0o600); err == nil {
			now, err = stampOf(probe)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestANewStoreIsKnownFromItsBeginning: what its first collection finds is nobody's.
func TestANewStoreIsKnownFromItsBeginning(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	litter(t, s, 3)
	if rep := collect(t, s, Options{Grace: time.Hour}); len(rep.Removed) != 3 {
		t.Errorf("removed %+v", rep.Removed)
	}
}

// TestDisksWithoutARecordHaveTime: from the first run that tells of them, where
// they are; and their VM is whole when its record is back.
func TestDisksWithoutARecordHaveTime(t *testing.T) {
	day := 24 * time.Hour
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	dir := s.Path("vms", someVM)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "disk-0.raw"), []byte("disk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rep := collect(t, s, Options{Grace: day})
		if len(rep.Removed) > 0 || len(rep.Doubtful) != 1 || rep.Doubtful[0].Kind != "vm" || rep.Doubtful[0].Until.Sub(rep.Doubtful[0].Since) != day {
			t.Fatalf("removed %+v, doubtful %+v", rep.Removed, rep.Doubtful)
		}
	}
	writeVM(t, s, someVM)
	if rep := collect(t, s, Options{Grace: day}); len(rep.Doubtful) > 0 {
		t.Errorf("with its record: doubtful %+v", rep.Doubtful)
	}
	forget(t, s, filepath.Join(dir, "record.json"))
	collect(t, s, Options{Grace: day})
	back(t, s, day+time.Second)
	rep := collect(t, s, Options{Grace: day})
	if len(rep.Removed) != 1 || rep.Removed[0].Kind != "vm" || !strings.Contains(rep.Removed[0].Reason, "since") || exists(dir) {
		t.Errorf("a day later: removed %+v", rep.Removed)
	}
}

// back makes what was noted as doubtful older.
func back(t *testing.T, s *store.Store, by time.Duration) {
	t.Helper()
	a, err := account.Read(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	for key, since := range a.Doubtful {
		a.Doubtful[key] = since.Add(-by)
	}
	if err := a.Write(s.Root()); err != nil {
		t.Fatal(err)
	}
}

// TestASnapshotWithoutAManifestHasTime too; an empty folder has not.
func TestASnapshotWithoutAManifestHasTime(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	half, empty := s.Path("snapshots", someVM), s.Path("snapshots", otherVM)
	err := errors.Join(os.Mkdir(half, 0o700), os.Mkdir(empty, 0o700), os.WriteFile(filepath.Join(half, "meta.json"), []byte("{}"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	rep := collect(t, s, Options{Grace: time.Hour})
	if !exists(half) || exists(empty) || len(rep.Doubtful) != 1 || len(rep.Removed) != 1 {
		t.Errorf("removed %+v, doubtful %+v", rep.Removed, rep.Doubtful)
	}
	if collect(t, s, Options{}); exists(half) {
		t.Error("it is there without any grace")
	}
}

// TestACreationThatDiedHasNone: it says itself that it never was whole, or the
// lease of its maker does.
func TestACreationThatDiedHasNone(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	for id, mark := range map[string]string{someVM: "making", otherVM: ""} {
		dir := s.Path("vms", id)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "disk-0.raw"), []byte("disk"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if mark == "" {
			if err := os.WriteFile(s.Path("leases", someVM), []byte("for vm create x\nvm:"+id+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, mark), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rep := collect(t, s, Options{Grace: time.Hour})
	if len(rep.Doubtful) > 0 || exists(s.Path("vms", someVM)) || exists(s.Path("vms", otherVM)) {
		t.Errorf("doubtful %+v, removed %+v", rep.Doubtful, rep.Removed)
	}
}

// TestADeathAfterTheNoteLosesNothing, nor one before it.
func TestADeathAfterTheNoteLosesNothing(t *testing.T) {
	for _, step := range []string{"store.trash.unlinked", "gc.noted"} {
		t.Run(step, func(t *testing.T) {
			f := fullStore(t)
			if err := f.Remove(t.Context(), f.first.ID, store.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
			killedAt(t, f.Store, step)
			if rep := collect(t, f.Store, Options{}); len(rep.Lost) > 0 {
				t.Errorf("lost %+v", rep.Lost)
			}
			if left, _ := os.ReadDir(f.Path("trash")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

// TestAnAccountOfANewerProgramEndsTheRun.
func TestAnAccountOfANewerProgramEndsTheRun(t *testing.T) {
	f := fullStore(t)
	orphan := litter(t, f.Store, 1)[0]
	a, err := account.Read(f.Root())
	if err != nil {
		t.Fatal(err)
	}
	a.Version++
	if err := a.Write(f.Root()); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), f.Store, Options{AcceptLoss: true}); failure.Code(err) != 5 || !exists(f.BlobPath(orphan)) {
		t.Errorf("gc: %v", err)
	}
}

// TestAnAccountThatSaysTheSameIsNotWritten.
func TestAnAccountThatSaysTheSameIsNotWritten(t *testing.T) {
	f := fullStore(t)
	was, err := os.Stat(f.Path(account.File))
	if err != nil {
		t.Fatal(err)
	}
	litter(t, f.Store, 1)
	collect(t, f.Store, Options{})
	if now, err := os.Stat(f.Path(account.File)); err != nil || !os.SameFile(was, now) {
		t.Errorf("it was written anew (%v)", err)
	}
	mustPublish(t, f.Store, "more")
	collect(t, f.Store, Options{})
	if now, err := os.Stat(f.Path(account.File)); err != nil || os.SameFile(was, now) {
		t.Errorf("it was not written anew (%v)", err)
	}
}

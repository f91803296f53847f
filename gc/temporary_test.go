package gc

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestTemporaryFilesGoWithTheirWriters, wherever they lie; one that is being
// written stays, and so does what it is to replace.
func TestTemporaryFilesGoWithTheirWriters(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	id := mustPublish(t, s, "a").ID
	var dead []string
	for _, dir := range []string{"", "journals", "vms", "images", "network", filepath.Join("snapshots", string(id))} {
		rel := filepath.Join(dir, ".tmp-x.json-1")
		if err := os.WriteFile(s.Path(rel), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		dead = append(dead, rel)
	}
	living, err := os.Create(s.Path("journals", ".tmp-y.json-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := unix.Flock(int(living.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	removed := func(o Options) (got []string) {
		for _, r := range collect(t, s, o).Removed {
			if r.Kind == "temporary" {
				got = append(got, r.ID)
			}
		}
		slices.Sort(got)
		return got
	}
	slices.Sort(dead)
	for _, o := range []Options{{DryRun: true}, {}} {
		if got := removed(o); !slices.Equal(got, dead) {
			t.Errorf("dry run %v: removed %q, want %q", o.DryRun, got, dead)
		}
	}
	if got := removed(Options{}); len(got) > 0 {
		t.Errorf("a second run removes %q", got)
	}
	for _, rel := range dead {
		if _, err := os.Lstat(s.Path(rel)); err == nil {
			t.Errorf("%s is there still", rel)
		}
	}
	if _, err := os.Lstat(living.Name()); err != nil {
		t.Errorf("that of a living writer is gone: %v", err)
	}
}

// TestTemporaryFilesOfRunningVMsGo, which lie outside the store.
func TestTemporaryFilesOfRunningVMsGo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	run, id := filepath.Join(t.TempDir(), "run"), strings.Repeat("ab", 16)
	entry, err := runfolder.New(run, s.Owner).Make(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer entry.Close()
	path := entry.Path(".tmp-vmm.json-1")
	if err := errors.Join(os.Mkdir(s.Path("vms", id), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	writeVM(t, s, id)
	rep := collect(t, s, Options{Sources: []garbage.Source{vm.New(s, image.New(s), vm.Options{RunDir: run}).Garbage()}})
	if len(rep.Removed) != 1 || rep.Removed[0].Kind != "temporary" || exists(path) {
		t.Errorf("removed %+v", rep.Removed)
	}
}

// TestNotesOfDamageGoWithTheBlob, in the same run.
func TestNotesOfDamageGoWithTheBlob(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	kept, gone := mustPublish(t, s, "kept").Spec.CHConfig, orphans(t, s, "gone")
	if err := os.MkdirAll(s.Path("cache", "damaged"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{kept, gone} {
		if err := os.WriteFile(s.Path("cache", "damaged", d.Encoded()), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	collect(t, s, Options{})
	if !exists(s.Path("cache", "damaged", kept.Encoded())) || exists(s.Path("cache", "damaged", gone.Encoded())) {
		t.Error("the note of a blob that stays has to stay, that of one that goes to go")
	}
	if again := collect(t, s, Options{}); len(again.Removed) > 0 {
		t.Errorf("a second run removes %+v", again.Removed)
	}
}

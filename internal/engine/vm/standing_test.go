package vm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

func writeDebt(t *testing.T, b *bed, id string, d debt) {
	t.Helper()
	text, err := json.Marshal(d)
	must(t, errors.Join(err, os.WriteFile(b.OwedPath(id), text, 0o600)))
}

// marking is a run of a collector that needs what is named, and notes the rest.
type marking struct {
	held    []string // ids of VMs
	judged  []garbage.Object
	foreign []garbage.Foreign
}

func (r *marking) Held(k garbage.Key) bool {
	return slices.ContainsFunc(r.held, func(id string) bool { key, _ := garbage.VMKey(id); return key == k })
}
func (r *marking) Hold(garbage.Key, string) {}
func (r *marking) Judge(o garbage.Object)   { r.judged = append(r.judged, o) }
func (r *marking) Leave(f garbage.Foreign)  { r.foreign = append(r.foreign, f) }
func (r *marking) GivenUp(string) bool      { return false }
func (r *marking) AtEnd(func())             {}
func (r *marking) said() (out []string) {
	for _, o := range r.judged {
		out = append(out, string(o.Kind)+" "+o.Reason)
	}
	for _, f := range r.foreign {
		out = append(out, "left: "+f.Reason)
	}
	return out
}

// end does what a collector does in the end.
func (r *marking) end(t *testing.T) {
	t.Helper()
	for _, o := range r.judged {
		if o.Still != nil && !o.Still() {
			continue
		}
		if o.End != nil {
			if _, err := o.End(t.Context()); err != nil {
				t.Errorf("%s %s: %v", o.Kind, o.ID, err)
			}
		} else if o.InStore {
			must(t, os.RemoveAll(o.Path))
		}
	}
}

// entry makes an entry of the run folder with the mark of a store, nil for none.
func (b *bed) entry(t *testing.T, id string, mark *owner.Mark) string {
	t.Helper()
	dir := b.RunDir(id)
	must(t, errors.Join(b.run.Ensure(), os.Mkdir(dir, 0o700)))
	if mark == nil {
		return dir
	}
	folder, err := os.OpenRoot(dir)
	must(t, err)
	must(t, errors.Join(owner.WriteMark(folder, "owner", *mark), folder.Close()))
	return dir
}

func numbered(i int) string { return strings.Repeat(strconv.Itoa(i), 32) }

// TestWhatIsInTheRunFolderIsJudgedByWhoseItIs.
func TestWhatIsInTheRunFolderIsJudgedByWhoseItIs(t *testing.T) {
	b := newBed(t, Options{Patience: quick})
	me, err := b.st.Owner(t.Context())
	must(t, err)
	another := me
	another.Store = strings.Repeat("e", 32)
	b.entry(t, numbered(1), nil)
	nobody := b.entry(t, numbered(2), nil)
	must(t, os.WriteFile(filepath.Join(nobody, "serial.log"), nil, 0o600))
	b.entry(t, numbered(3), &another)
	b.entry(t, numbered(4), &me)
	hidden, err := filelock.Exclusive(t.Context(), filepath.Join(b.entry(t, numbered(5), &me), "vmm.log"))
	must(t, err)
	defer hidden.Unlock()
	b.entry(t, numbered(6), &another)
	must(t, os.WriteFile(b.RunDir(numbered(7)), nil, 0o600))
	held := b.create(t, "web", false)
	listener := filepath.Join(b.RunDir(held.ID), MigrationSocketFile)
	must(t, os.WriteFile(listener, nil, 0o600))
	r := &marking{held: []string{held.ID, numbered(6)}}
	must(t, b.Garbage().Objects(t.Context(), r))
	said := r.said()
	slices.Sort(said)
	want := []string{
		"left: a VMM that cannot be seen from here lives in it",
		"left: it belongs to " + another.String(),
		"left: it belongs to " + another.String() + ", of which this store is a copy",
		"left: it does not say whose it is; rm -r " + nobody + ", if no VM uses it",
		"run its VM does not exist", "run its VM does not exist",
		"temporary the capture that listened is dead",
	}
	var wrong int
	said = slices.DeleteFunc(said, func(s string) bool {
		is := strings.HasPrefix(s, "left: ") && !slices.Contains(want, s)
		if is {
			wrong++
		}
		return is
	})
	if diff := cmp.Diff(want, said); diff != "" || wrong > 1 {
		t.Errorf("judged (-want +got), %d more were wrong:\n%s", wrong, diff)
	}
	r.end(t)
	for i, gone := range map[int]bool{1: true, 2: false, 3: false, 4: true, 5: false, 6: false, 7: false} {
		if exists(b.RunDir(numbered(i))) == gone {
			t.Errorf("entry %d: gone %v, want %v", i, !gone, gone)
		}
	}
	if exists(listener) {
		t.Error("the socket of a dead capture is left")
	}
	must(t, os.RemoveAll(b.RunDir(numbered(7))))
	for _, s := range []Standing{{ID: numbered(3), Path: "x"}, {ID: numbered(5), Path: "y", Mine: true}} {
		refused(t, s.Path, b.EndStanding(t.Context(), s), failure.Conflict)
	}
}

// TestTheProcessesOfAVMThatDoesNotExistEnd, and those that its record does not know,
// unless a verb is at work.
func TestTheProcessesOfAVMThatDoesNotExistEnd(t *testing.T) {
	b := newBed(t, Options{})
	gone, unwritten := b.create(t, "gone", true), b.create(t, "unwritten", true)
	must(t, os.RemoveAll(b.Dir(gone.ID)))
	forgot := *unwritten
	forgot.Process, forgot.State = nil, Stopped
	must(t, b.save(&forgot))
	seen := b.get(t, "unwritten")
	if b.Look(t.Context(), seen); seen.Trouble != Unwritten {
		t.Errorf("trouble %q", seen.Trouble)
	}
	r := &marking{held: []string{unwritten.ID}}
	_, unlock, err := b.lockOnly(t, unwritten.ID)
	must(t, err)
	must(t, b.EndUnwritten(t.Context(), Standing{ID: unwritten.ID}))
	unlock()
	if !alive(unwritten.Process) {
		t.Fatal("it ended while a verb was at work")
	}
	must(t, b.Garbage().Objects(t.Context(), r))
	said := r.said()
	slices.Sort(said)
	want := []string{"process VMM of VM " + gone.ID + ", which does not exist", "process VMM of VM " + unwritten.ID + " that was never written down", "run its VM does not exist"}
	slices.Sort(want)
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("judged (-want +got):\n%s", diff)
	}
	r.end(t)
	for name, rec := range map[string]*Record{"gone": gone, "unwritten": unwritten} {
		if !ended(t.Context(), rec.Process, time.Minute) {
			t.Errorf("%s: its VMM lives", name)
		}
	}
	if exists(b.RunDir(gone.ID)) || !exists(b.RunDir(unwritten.ID)) {
		t.Error("the entry of the VM that is gone stays, or the other one's went")
	}
	must(t, b.EndUnwritten(t.Context(), Standing{ID: gone.ID}))            // there is none
	must(t, b.EndStanding(t.Context(), Standing{ID: gone.ID, Mine: true})) // it has gone
}

// lockOnly is lock without what a verb does first.
func (b *bed) lockOnly(t *testing.T, id string) (*Record, func(), error) {
	t.Helper()
	unlock, err := b.lock(t.Context(), id, "test")
	return nil, unlock, err
}

// TestATornIdentityNamesNobody: the VMM ends all the same, by what the kernel says,
// and the damage is told.
func TestATornIdentityNamesNobody(t *testing.T) {
	b := newBed(t, Options{})
	rec := b.create(t, "web", true)
	path := filepath.Join(b.RunDir(rec.ID), identityFile)
	whole, err := os.ReadFile(path)
	must(t, err)
	if p, err := b.running(t.Context(), rec.ID); err != nil || p == nil || p.PID != rec.Process.PID {
		t.Errorf("running: %+v, %v", p, err)
	}
	must(t, os.WriteFile(path, []byte(`{"pid":1,`), 0o600))
	if p, err := b.running(t.Context(), rec.ID); err != nil || p != nil {
		t.Errorf("by a torn identity: %+v, %v", p, err)
	}
	refused(t, "kill", b.Kill(t.Context(), rec.ID), failure.Damaged, identityFile)
	if !ended(t.Context(), rec.Process, time.Minute) {
		t.Error("its VMM lives")
	}
	// A whole one names a process that has ended, or another that has its pid.
	other := strings.Replace(string(whole), strconv.Itoa(rec.Process.PID), strconv.Itoa(os.Getpid()), 1)
	for _, text := range []string{string(whole), other} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if err := b.Kill(t.Context(), rec.ID); err != nil {
			t.Errorf("kill of nobody: %v", err)
		}
	}
}

// TestAVMWithoutAKeeperGetsOne.
func TestAVMWithoutAKeeperGetsOne(t *testing.T) {
	b := newBed(t, Options{})
	kept := b.create(t, "kept", true)
	alone := &bed{New(b.st, b.images, b.o), b.kernel, b.disk}
	alone.o.Keeper = ""
	rec := alone.create(t, "web", true)
	if ids, err := b.Unkept(t.Context()); err != nil || !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("without a keeper: %q, %v; want %s, not %s", ids, err, rec.ID, kept.ID)
	}
	if ids, err := alone.Keep(t.Context()); err != nil || ids != nil {
		t.Errorf("by whom there is no keeper: %q, %v", ids, err)
	}
	if ids, err := b.Keep(t.Context()); err != nil || !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("kept %q, %v", ids, err)
	}
	if ids, err := b.Keep(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("kept again: %q, %v", ids, err)
	}
	if exit, err := b.Stop(t.Context(), "web", StopOptions{}); err != nil || exit.Reason != PoweredOff {
		t.Errorf("%v, %v", exit, err)
	}
}

// TestWhatGoesWhileACollectorLooksIsNothingToIt: a verb at work removes an entry of
// the run folder, and the room of a VMM, after the collector has seen them.
func TestWhatGoesWhileACollectorLooksIsNothingToIt(t *testing.T) {
	b := newBed(t, Options{})
	r := &marking{}
	gone := filepath.Join(t.TempDir(), "gone")
	if err := b.collectDead(r, Standing{ID: fuzzID, Path: gone}); err != nil {
		t.Errorf("an entry: %v", err)
	}
	if err := (&collected{b.st}).leftIn(r, fuzzID, gone); err != nil {
		t.Errorf("a room: %v", err)
	}
	if left, err := LookAt(gone); err != nil || left.Worth {
		t.Errorf("the folder of a VM: %+v, %v", left, err)
	}
	if said := r.said(); len(said) > 0 {
		t.Errorf("judged: %q", said)
	}
}

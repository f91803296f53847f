package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

func (b *bed) get(t *testing.T, name string) *vm.Record {
	t.Helper()
	rec, err := b.VMs.Get(t.Context(), name)
	must(t, err)
	return rec
}

// TestASuspendedVMGoesOnInEveryMode on its own disks, as often as it sleeps.
func TestASuspendedVMGoesOnInEveryMode(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	_, err := b.Wake(t.Context(), "web", Request{})
	refused(t, "one that runs", err, failure.Conflict, "not suspended")
	for _, mode := range []Mode{Stream, Copy, Map} {
		at := b.counts(t, "web", 3)
		b.suspend(t, "web")
		rec, err := b.Wake(t.Context(), "web", Request{Mode: mode})
		must(t, err)
		if rec.Sleep != nil || rec.State != vm.Running || rec.Restore.Mode != string(mode) {
			t.Errorf("%s: %s, %+v", mode, rec.State, rec.Restore)
		}
		b.counts(t, "web", at)
	}
	if left := b.beds(t); len(left) > 0 {
		t.Errorf("snapshots that it slept on are left: %v", left)
	}
}

// beds are the snapshots that VMs slept on.
func (b *bed) beds(t *testing.T) (ids []store.ID) {
	t.Helper()
	ids, err := b.Store.IDs()
	must(t, err)
	return ids
}

// TestAWakeThatFailsLeavesTheVMSuspended, unless its guest may have run: then its RAM
// is of no use any more. A guest that runs has been woken, whatever its VMM says.
func TestAWakeThatFailsLeavesTheVMSuspended(t *testing.T) {
	for name, c := range map[string]struct {
		mode  Mode
		words string
		then  vm.State
		says  string
	}{
		"launch":                              {Stream, "vmm.ping=die", vm.Suspended, "launch: "},
		"load, streamed":                      {Stream, "receive.lane=die", vm.Suspended, "load: "},
		"load, copied":                        {Copy, "vm.restore=fail", vm.Suspended, "load: "},
		"load, mapped":                        {Map, "vm.restore=late-die", vm.Suspended, "load: "},
		"the guest is not let go on":          {Stream, "vm.resume=fail", vm.Suspended, "resume: "},
		"its VMM says no, and it goes on":     {Stream, "vm.resume=late-fail", vm.Running, ""},
		"its VMM ends when it is to go on":    {Stream, "vm.resume=late-die", vm.Broken, "resume: "},
		"its VMM ends before it can go on":    {Copy, "vm.resume=die", vm.Broken, "resume: "},
		"it was mapped, and is not let go on": {Map, "vm.resume=fail", vm.Suspended, "resume: "},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.boot(t, "web")
			at := b.counts(t, "web", 3)
			b.suspend(t, "web")
			rec, err := b.told(t, "CHSIM_FAIL="+c.words).Wake(t.Context(), "web", Request{Mode: c.mode})
			if c.says == "" && err != nil {
				t.Fatalf("%+v, %v", rec, err)
			}
			if c.says != "" {
				refused(t, name, err, nil, c.says, "wake VM web", "--cold")
			}
			got := b.get(t, "web")
			if got.State != c.then || (got.Sleep != nil) != (c.then == vm.Suspended) || (got.Process != nil) != (c.then == vm.Running) {
				t.Fatalf("it is %s (%s), sleep %+v, process %+v", got.State, got.LastError, got.Sleep, got.Process)
			}
			if c.then == vm.Suspended {
				_, err = b.Wake(t.Context(), "web", Request{})
				must(t, err)
			}
			if c.then != vm.Broken {
				b.counts(t, "web", at)
			}
		})
	}
}

// TestAVMBecomesWhatASnapshotIs and keeps its id and its name.
func TestAVMBecomesWhatASnapshotIs(t *testing.T) {
	b := newBed(t)
	was := b.boot(t, "web")
	b.save(t, "web", "one")
	at := b.counts(t, "web", 3)
	b.suspend(t, "web")
	rec, unlock, err := b.VMs.Lock(t.Context(), "web", "test")
	must(t, err)
	plan, err := b.PlanExchange(t.Context(), rec, Request{Snapshot: "one"})
	if err != nil || plan.Name != "web" || plan.Paused {
		t.Errorf("%+v, %v", plan, err)
	}
	trial, err := b.Try(t.Context(), rec, Request{Snapshot: "one", Mode: Map})
	must(t, err)
	must(t, trial.Become(t.Context()))
	must(t, trial.Close(t.Context()))
	unlock()
	got := b.get(t, "web")
	if got.ID != was.ID || got.State != vm.Running || got.Sleep != nil || len(got.Disks) != 1 || got.Disks[0].File == was.Disks[0].File {
		t.Errorf("it is %+v", got)
	}
	b.counts(t, "web", at)
	if disks, err := filepath.Glob(filepath.Join(b.VMs.Dir(got.ID), "disk-*")); err != nil || len(disks) != 1 {
		t.Errorf("disks %q, %v", disks, err)
	}
	if all, err := b.VMs.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d VMs, %v", len(all), err)
	}
}

// TestAnExchangeThatFailsLeavesTheVMAsItWas: asleep, with its disks and no others.
func TestAnExchangeThatFailsLeavesTheVMAsItWas(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	at := b.counts(t, "web", 3)
	b.suspend(t, "web")
	rec, unlock, err := b.VMs.Lock(t.Context(), "web", "test")
	must(t, err)
	before := b.traces(t)
	for words, says := range map[string]string{"vmm.ping=die": "launch: ", "receive.lane=die": "load: "} {
		_, err = b.told(t, "CHSIM_FAIL="+words).Try(t.Context(), rec, Request{Snapshot: "one", Mode: Stream})
		refused(t, words, err, nil, says, "in place of VM web")
		if after := b.traces(t); after != before {
			t.Errorf("%s: left:\n%s\nthere was:\n%s", words, after, before)
		}
	}
	trial, err := b.Try(t.Context(), rec, Request{Snapshot: "one"})
	must(t, err)
	for words, says := range map[string]string{"vmm.ping=die": "launch: ", "vm.resume=fail": "resume: "} {
		trial.Engine = b.told(t, "CHSIM_FAIL="+words).Engine
		now := *rec
		trial.of = &now
		refused(t, words, trial.Become(t.Context()), nil, says, "in place of VM web")
		if got := b.get(t, "web"); got.State != vm.Suspended || got.Sleep == nil {
			t.Fatalf("%s: it is %s, sleep %+v", words, got.State, got.Sleep)
		}
		// adopt moved the trial's disks, disown removed them: make them again.
		must(t, trial.disks(t.Context()))
	}
	trial.Engine = b.Engine
	must(t, trial.Close(t.Context()))
	unlock()
	_, err = b.Wake(t.Context(), "web", Request{})
	must(t, err)
	b.counts(t, "web", at)
}

// TestAVMKeepsItsInterfacesInAnExchange: a snapshot with others makes another VM.
func TestAVMKeepsItsInterfacesInAnExchange(t *testing.T) {
	b := newBed(t)
	rec := b.boot(t, "web")
	b.save(t, "web", "one")
	rec.Networks = []vm.Network{{ID: "_net0", Attachment: network.Attachment{MAC: "02:00:00:00:00:01", Network: "lan"}}}
	_, err := b.PlanExchange(t.Context(), rec, Request{Snapshot: "one"})
	refused(t, "an interface more", err, failure.Incompatible, "02:00:00:00:00:01", "vm create NAME --from-snapshot")
}

// undoing is a collector that takes back what the dead left.
type undoing struct {
	dry    bool
	making string
	said   []string
}

func (u *undoing) DryRun() bool                                      { return u.dry }
func (u *undoing) Making(_ context.Context, id string) (bool, error) { return id == u.making, nil }
func (u *undoing) GivenUp(string) bool                               { return true }
func (u *undoing) Undone(k garbage.Kind, _, reason string) {
	u.said = append(u.said, string(k)+" "+reason)
}

func (u *undoing) NotUndone(k garbage.Kind, _, _ string, err error) {
	u.said = append(u.said, string(k)+" not: "+err.Error())
}

// half is a restore whose process died before step resume.
func (b *bed) half(t *testing.T, name string) *run {
	t.Helper()
	lease, err := b.Store.Lease(t.Context(), "test")
	must(t, err)
	p := b.plan(t, "one", name, Copy)
	r := &run{Engine: b.Engine, plan: p, lease: lease, started: time.Now(), unlock: func() {}}
	must(t, r.do(t.Context(), "test.", r.buildSteps()))
	r.unlock()
	must(t, lease.Release())
	return r
}

// TestWhatADeadRestoreLeftIsUndone once nobody is making its VM; of one that was
// done nothing goes but the journal.
func TestWhatADeadRestoreLeftIsUndone(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	before := b.traces(t)
	r := b.half(t, "again")
	half := b.traces(t)
	undo := func(u *undoing) []string {
		must(t, b.Garbage(nil).Undo(t.Context(), u))
		return u.said
	}
	if said := undo(&undoing{making: r.rec.ID}); said != nil || b.traces(t) != half {
		t.Errorf("while it is made: %q", said)
	}
	if said := undo(&undoing{dry: true}); len(said) != 1 || b.traces(t) != half {
		t.Errorf("a dry run: %q", said)
	}
	want := []string{"process VMM of VM " + r.rec.ID + ", whose restore died half-way", "journal a restore that died half-way"}
	if diff := cmp.Diff(want, undo(&undoing{})); diff != "" {
		t.Errorf("undone (-want +got):\n%s", diff)
	}
	if after := b.traces(t); after != before {
		t.Errorf("left:\n%s\nthere was:\n%s", after, before)
	}
	whole := b.half(t, "done")
	whole.describe()
	must(t, b.VMs.Publish(t.Context(), whole.rec))
	if said := undo(&undoing{}); len(said) == 0 || b.get(t, "done").Process == nil || strings.Contains(b.traces(t), "journals/") {
		t.Errorf("of a VM that there is: %q, left:\n%s", said, b.traces(t))
	}
	torn := b.Store.Path("journals", strings.Repeat("0", 32)+".json")
	must(t, os.WriteFile(torn, []byte(`{"vm":`), 0o600))
	refused(t, "a torn journal", b.Garbage(nil).Undo(t.Context(), &undoing{}), failure.Damaged, "remove the file")
	must(t, os.Remove(torn))
	if err := b.Recover(t.Context(), torn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a journal that is gone: %v", err)
	}
}

package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// TestAVMGoesOnInEveryMode where it was, and from its disks it boots.
func TestAVMGoesOnInEveryMode(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	at := b.counts(t, "web", 3)
	b.save(t, "web", "one")
	for _, mode := range []Mode{Stream, Copy, Map} {
		name := string(mode)
		p := b.plan(t, "one", name, mode)
		told := int64(0)
		p.onBytes = func(done, total int64) { told = max(told, done) }
		rec, err := b.Apply(t.Context(), p)
		must(t, err)
		if rec.State != vm.Running || rec.Restore == nil || rec.Restore.Mode != name || rec.Snapshot == "" || told == 0 {
			t.Errorf("%s: %s, %+v, snapshot %q, told of %d bytes", mode, rec.State, rec.Restore, rec.Snapshot, told)
		}
		b.counts(t, name, at)
		if log, err := os.ReadFile(b.VMs.SerialPath(rec.ID)); err != nil || strings.Contains(string(log), "BOOT") {
			t.Errorf("%s: it has booted, or %v", mode, err)
		}
	}
	cold, err := b.NewPlan(t.Context(), Request{Snapshot: "one", Name: "cold", Cold: true})
	must(t, err)
	rec, err := b.Apply(t.Context(), cold)
	if err != nil || rec.State != vm.Stopped || rec.Process != nil {
		t.Errorf("cold: %+v, %v", rec, err)
	}
	paused, err := b.NewPlan(t.Context(), Request{Snapshot: "one", Name: "paused", Paused: true})
	must(t, err)
	if rec, err = b.Apply(t.Context(), paused); err != nil || rec.State != vm.Paused {
		t.Errorf("paused: %+v, %v", rec, err)
	}
	info, err := b.VMs.Client(rec).Info(t.Context())
	if err != nil || info.State != "Paused" {
		t.Errorf("paused: %+v, %v", info, err)
	}
}

// TestWhicheverStepFailsNothingIsLeft of the VM, nor of one that was made beside it.
func TestWhicheverStepFailsNothingIsLeft(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	for name, c := range map[string]struct {
		mode  Mode
		words string // of CHSIM_FAIL
		spoil func(*testing.T, *bed, []*Plan) (mend func())
		class error
		says  string
	}{
		"launch":         {Copy, "vmm.ping=die", nil, nil, "launch: "},
		"load, copied":   {Copy, "vm.restore=fail", nil, nil, "load: "},
		"load, mapped":   {Map, "vm.restore=die", nil, nil, "load: "},
		"load, streamed": {Stream, "receive.lane=die", nil, nil, "load: "},
		"late, streamed": {Stream, "receive.complete=fail", nil, nil, "load: "},
		"resume":         {Stream, "vm.resume=fail", nil, nil, "resume: "},
		"record: a name is taken": {Map, "", func(t *testing.T, b *bed, plans []*Plan) func() {
			plans[1].Name = "web"
			return func() {}
		}, failure.Conflict, "taken by"},
		"disks: a pack is damaged": {Copy, "", damage, failure.Damaged, "disk"},
		"the snapshot is gone": {Copy, "", func(t *testing.T, b *bed, plans []*Plan) func() {
			gone := *plans[0].subject
			sn := *gone.snapshot
			sn.ID = store.ID(strings.Repeat("0", 32))
			gone.snapshot = &sn
			for _, p := range plans {
				p.SnapshotID, p.subject = sn.ID, &gone
			}
			return func() {}
		}, failure.NotFound, "was removed meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := b.told(t)
			if c.words != "" {
				bad = b.told(t, "CHSIM_FAIL="+c.words)
			}
			plans, err := bad.NewPlans(t.Context(), Request{Snapshot: "one", Mode: c.mode}, []string{"a", "b"})
			must(t, err)
			mend := func() {}
			if c.spoil != nil {
				mend = c.spoil(t, b, plans)
			}
			before := b.traces(t)
			recs, err := bad.ApplyAll(t.Context(), plans)
			if recs != nil {
				t.Fatal("VMs were made")
			}
			refused(t, name, err, c.class, c.says)
			if c.says != "was removed meanwhile" && failure.UndoneOf(err) != "nothing is left of what was to be made" {
				t.Errorf("what holds: %q", failure.UndoneOf(err))
			}
			if after := b.traces(t); after != before {
				t.Errorf("left:\n%s\nthere was:\n%s", after, before)
			}
			mend()
		})
	}
	if recs, err := b.ApplyAll(t.Context(), []*Plan{b.plan(t, "one", "a", Auto), b.plan(t, "one", "b", Auto)}); err != nil || len(recs) != 2 {
		t.Errorf("with nothing in the way: %v", err)
	}
}

// damage spoils every pack, and takes that back.
func damage(t *testing.T, b *bed, _ []*Plan) (mend func()) {
	t.Helper()
	packs, err := filepath.Glob(b.Store.Path("blobs", "sha256", "*"))
	must(t, err)
	var was [][]byte
	for _, path := range packs {
		whole, err := os.ReadFile(path)
		must(t, err)
		was = append(was, whole)
		spoilt := append([]byte{}, whole...)
		for i := 64; i < len(spoilt); i += 97 {
			spoilt[i] ^= 0x55
		}
		if len(whole) > 4096 {
			must(t, os.WriteFile(path, spoilt, 0o600))
		}
	}
	return func() {
		for i, path := range packs {
			must(t, os.WriteFile(path, was[i], 0o600))
		}
	}
}

// TestARestoreThatIsCalledOffLeavesNothing.
func TestARestoreThatIsCalledOffLeavesNothing(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	before := b.traces(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := b.plan(t, "one", "again", Stream)
	p.onBytes = func(int64, int64) { cancel() }
	_, err := b.Apply(ctx, p)
	refused(t, "called off", err, context.Canceled, "nothing is left")
	if after := b.traces(t); after != before {
		t.Errorf("left:\n%s\nthere was:\n%s", after, before)
	}
}

// TestWhatWasReplacedSinceThePlanMakesTheSameVM or none.
func TestWhatWasReplacedSinceThePlanMakesTheSameVM(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	lease, err := b.Store.Lease(t.Context(), "test")
	must(t, err)
	defer lease.Release()
	p := b.plan(t, "one", "again", Auto)
	s := *p.subject
	sn := *s.snapshot
	if got, err := b.holdPlanned(t.Context(), lease, &s); err != nil || got != &s {
		t.Errorf("as it was: read again %v, %v", got != &s, err)
	}
	sn.ManifestDigest = "sha256:0"
	s.snapshot = &sn
	if got, err := b.holdPlanned(t.Context(), lease, &s); err != nil || got == &s || got.source == s.source {
		t.Errorf("moved to other packs: %v", err)
	}
	s.source = &vm.Blueprint{}
	_, err = b.holdPlanned(t.Context(), lease, &s)
	refused(t, "of another VM", err, failure.Conflict, "replaced by another")
}

// TestTheCacheIsFilledAheadOnlyWhereThereIsRoom.
func TestTheCacheIsFilledAheadOnlyWhereThereIsRoom(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	_, err := b.Materialise(t.Context(), "nothing")
	refused(t, "of nothing", err, failure.NotFound)
	if p := b.plan(t, "one", "again", Auto); p.Mode != Stream || !p.Ahead {
		t.Errorf("mode %s (%s), ahead %v", p.Mode, p.Why, p.Ahead)
	}
	b.CacheCap = ramcache.AtMost(1)
	if made, err := b.Materialise(t.Context(), "one"); made || err != nil {
		t.Errorf("above the cap: made %v, %v", made, err)
	}
	b.CacheCap = ramcache.AtMost(gib)
	for range 2 {
		if made, err := b.Materialise(t.Context(), "one"); !made || err != nil {
			t.Errorf("made %v, %v", made, err)
		}
	}
	if p := b.plan(t, "one", "again", Auto); p.Mode != Map || p.SharedBytes != 0 {
		t.Errorf("mode %s (%s), once %d", p.Mode, p.Why, p.SharedBytes)
	}
}

// TestAnExportIsWholeOrNotThere.
func TestAnExportIsWholeOrNotThere(t *testing.T) {
	b := newBed(t)
	b.boot(t, "web")
	b.save(t, "web", "one")
	dir := filepath.Join(b.dir, "out")
	must(t, b.ExportCH(t.Context(), "one", dir, nil))
	for _, name := range []string{"config.json", "state.json", "memory-ranges", "disk-0.raw", "kernel"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if config, err := os.ReadFile(filepath.Join(dir, "config.json")); err != nil || strings.Contains(string(config), b.Store.Root()) {
		t.Errorf("its configuration names files of the store, or %v", err)
	}
	refused(t, "where something is", b.ExportCH(t.Context(), "one", dir, nil), failure.Conflict, "exists already")
	refused(t, "of nothing", b.ExportCH(t.Context(), "nothing", dir+"2", nil), failure.NotFound)
	refused(t, "into no folder", b.ExportCH(t.Context(), "one", filepath.Join(b.dir, "none", "out"), nil), nil, "none")
	mend := damage(t, b, nil)
	refused(t, "of what is damaged", b.ExportCH(t.Context(), "one", dir+"2", nil), failure.Damaged)
	mend()
	if left, err := filepath.Glob(filepath.Join(b.dir, "*out*")); err != nil || len(left) != 1 {
		t.Errorf("left %q, %v", left, err)
	}
	full := subject{snapshot: &store.Snapshot{ID: "5"}, ram: sized{0, 1 << 62}}
	refused(t, "without room", full.roomFor(b.dir), failure.NoSpace, "are free")
	if err := full.roomFor(filepath.Join(b.dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nowhere: %v", err)
	}
}

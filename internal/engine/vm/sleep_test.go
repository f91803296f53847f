package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

const aSnapshot = store.ID("fedcba9876543210fedcba9876543210")

// TestOnlyDisksThatWereMadeHereAreStray: what an operator put beside them, such as a
// copy, is the operator's.
func TestOnlyDisksThatWereMadeHereAreStray(t *testing.T) {
	m := newManager(t)
	rec := &Record{ID: fuzzID, Disks: []Disk{{File: "disk-0.raw"}, {File: "disk-1.0123abcd.raw"}}}
	must(t, os.Mkdir(m.Dir(rec.ID), 0o700))
	names := func() (names []string) {
		entries, err := os.ReadDir(m.Dir(rec.ID))
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	kept := []string{"disk-0.raw", "disk-0.raw.bak", "disk-0.raw~", "disk-1.0123abcd.raw", "disk-1.backup.raw", "disk-images"}
	for _, name := range append(slices.Clone(kept), "disk-1.raw", "disk-0.89abcdef.raw", "disk-17.raw") {
		must(t, os.WriteFile(filepath.Join(m.Dir(rec.ID), name), []byte("x"), 0o600))
	}
	must(t, m.DropStrayDisks(rec))
	if got := names(); !slices.Equal(got, kept) {
		t.Errorf("left %q, want %q", got, kept)
	}
}

// TestAVMSleepsAndWakesByOneFile: whichever way it goes on, and also where the wake
// is taken back.
func TestAVMSleepsAndWakesByOneFile(t *testing.T) {
	b := newBed(t, Options{})
	b.create(t, "web", true)
	must(t, b.Pause(t.Context(), "web"))
	rec, unlock, err := b.Lock(t.Context(), "web", "test")
	must(t, err)
	must(t, b.Suspend(rec, aSnapshot, false))
	must(t, b.EndSuspended(t.Context(), rec))
	unlock()
	asleep := func(what string, woken int) *Record {
		t.Helper()
		got := b.get(t, "web")
		if got.State != Suspended || got.Process != nil || got.Sleep == nil || got.Sleep.Snapshot != aSnapshot || got.Woken != woken {
			t.Fatalf("%s: %s, process %+v, sleep %+v, woken %d", what, got.State, got.Process, got.Sleep, got.Woken)
		}
		return got
	}
	was := asleep("suspended", 0)
	_, err = b.Start(t.Context(), "web", StartOptions{})
	refused(t, "start", err, failure.Conflict, "is suspended", "cocoon vm start web")
	_, err = b.Stop(t.Context(), "web", StopOptions{})
	refused(t, "stop", err, failure.Conflict, "is suspended", "--cold")
	refused(t, "resume", b.Resume(t.Context(), "web"), failure.Conflict, "cocoon vm start web")
	before := *was
	must(t, b.Wake(was))
	if got := b.get(t, "web"); got.Sleep != nil || got.Woken != 1 {
		t.Errorf("woken: %+v", got)
	}
	must(t, b.TakeBack(&before))
	asleep("taken back", 1)
	given, err := b.WakeCold(t.Context(), "web", BootPaths{Kernel: b.kernel})
	if err != nil || given.Sleep == nil || given.Sleep.Snapshot != aSnapshot {
		t.Fatalf("its RAM was given up: %+v, %v", given, err)
	}
	if got := b.get(t, "web"); got.Sleep != nil || got.State != Stopped || got.Woken != 2 {
		t.Errorf("given up: %+v", got)
	}
	if rec, err := b.WakeCold(t.Context(), "web", BootPaths{}); err != nil || rec.Sleep != nil {
		t.Errorf("of one that does not sleep: %+v, %v", rec, err)
	}
	if _, err := b.Start(t.Context(), "web", StartOptions{}); err != nil || b.state(t, "web") != Running {
		t.Error(err)
	}
}

// TestAVMFallsAsleepWholeOrNotAtAll: with a disk that cannot be made durable it goes
// on as it was.
func TestAVMFallsAsleepWholeOrNotAtAll(t *testing.T) {
	b := newBed(t, Options{})
	rec := b.create(t, "web", false)
	rec.Disks = append(rec.Disks, Disk{Index: 1, File: "disk-1.raw"})
	if err := b.Suspend(rec, aSnapshot, false); !errors.Is(err, os.ErrNotExist) || rec.Sleep != nil {
		t.Errorf("%v, sleep %+v", err, rec.Sleep)
	}
	if got := b.get(t, "web"); got.Sleep != nil || got.State != Created {
		t.Errorf("the VM is %s", got.State)
	}
	must(t, b.Failed(rec, "so it was"))
	if got := b.get(t, "web"); got.State != Broken || got.LastError != "so it was" {
		t.Errorf("%s, %q", got.State, got.LastError)
	}
}

// TestADamagedSleepIsToldNotTaken: neither as a VM that is awake nor as one asleep
// on something else.
func TestADamagedSleepIsToldNotTaken(t *testing.T) {
	b := newBed(t, Options{})
	rec := b.create(t, "web", false)
	for name, text := range map[string]string{
		"torn": `{"version":1,"snap`, "of another VM": `{"version":1,"snapshot":"` + string(aSnapshot) + `","record":{"version":1,"id":"` + fuzzID + `"}}`,
		"without a record": `{"version":1,"snapshot":"` + string(aSnapshot) + `"}`, "of no snapshot": `{"version":1,"snapshot":"x","record":{}}`,
	} {
		must(t, os.WriteFile(b.SleepPath(rec.ID), []byte(text), 0o600))
		_, err := b.Get(context.Background(), "web")
		refused(t, name, err, failure.Damaged, rec.ID)
	}
	must(t, os.Remove(b.SleepPath(rec.ID)))
}

package vm

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// owe pauses a VM as a capture does that dies then.
func (b *bed) owe(t *testing.T, name string) *Record {
	t.Helper()
	rec, unlock, err := b.Lock(t.Context(), name, "test")
	must(t, err)
	defer unlock()
	_, err = b.OweResume(t.Context(), rec)
	must(t, err)
	must(t, b.Client(rec).Pause(t.Context()))
	return rec
}

func never(context.Context, *Record) error { return errors.New("nobody sleeps here") }

// TestADebtIsPaidOnce: the guest of a capture that died goes on, and its next
// resume is no error.
func TestADebtIsPaidOnce(t *testing.T) {
	b := newBed(t, Options{})
	b.create(t, "other", true)
	b.create(t, "web", true)
	rec := b.owe(t, "web")
	if b.state(t, "web") != Paused {
		t.Fatal("the guest runs")
	}
	for _, want := range [][]string{{"web"}, nil} {
		if names, err := b.Rescue(t.Context(), never); err != nil || !slices.Equal(names, want) {
			t.Errorf("rescued %q, %v; want %q", names, err, want)
		}
		if b.state(t, "web") != Running || exists(b.OwedPath(rec.ID)) {
			t.Error("the guest stands still, or the note is there")
		}
	}
	must(t, b.Resume(t.Context(), "web"))
	b.owe(t, "web")
	must(t, b.RescueAfter(t.Context(), rec.ID, never))
	if b.state(t, "web") != Running || exists(b.OwedPath(rec.ID)) {
		t.Error("after its pauser the guest stands still, or the note is there")
	}
	must(t, b.RescueAfter(t.Context(), rec.ID, never)) // without a note
	must(t, b.RescueAfter(t.Context(), fuzzID, never)) // of nobody
}

// TestADebtIsNotForOthersToPay: neither while its pauser lives, nor of a VM that is
// not there.
func TestADebtIsNotForOthersToPay(t *testing.T) {
	b := newBed(t, Options{})
	b.create(t, "web", true)
	rec := b.owe(t, "web")
	_, unlock, err := b.Lock(t.Context(), "web", "test")
	must(t, err)
	if names, err := b.Rescue(t.Context(), never); err != nil || names != nil || b.state(t, "web") != Paused {
		t.Errorf("beside its pauser: rescued %q, %v", names, err)
	}
	unlock()
	must(t, b.Kill(t.Context(), rec.ID))
	if names, err := b.Rescue(t.Context(), never); err != nil || names != nil || exists(b.OwedPath(rec.ID)) {
		t.Errorf("of a VMM that has ended: rescued %q, %v, note %v", names, err, exists(b.OwedPath(rec.ID)))
	}
	rec.Process = nil
	_, err = b.OweResume(t.Context(), rec)
	must(t, err)
	must(t, os.RemoveAll(b.Dir(rec.ID)))
	if names, err := b.Rescue(t.Context(), never); err != nil || names != nil || !exists(b.OwedPath(rec.ID)) {
		t.Errorf("of a VM that is gone: rescued %q, %v", names, err)
	}
}

// TestASettledPauseLeavesADebtOnlyIfTheGuestStandsStill.
func TestASettledPauseLeavesADebtOnlyIfTheGuestStandsStill(t *testing.T) {
	b := newBed(t, Options{})
	b.create(t, "web", true)
	rec, unlock, err := b.Lock(t.Context(), "web", "test")
	must(t, err)
	defer unlock()
	boom := errors.New("boom")
	settled := func(cause error) error {
		settle, err := b.OweResume(t.Context(), rec)
		must(t, err)
		return settle(t.Context(), cause)
	}
	must(t, b.Client(rec).Pause(t.Context()))
	if err := settled(boom); !errors.Is(err, boom) || !exists(b.OwedPath(rec.ID)) {
		t.Errorf("it stands still: %v, note %v", err, exists(b.OwedPath(rec.ID)))
	}
	must(t, b.Client(rec).Resume(t.Context()))
	if err := settled(boom); !errors.Is(err, boom) || exists(b.OwedPath(rec.ID)) {
		t.Errorf("it runs: %v, note %v", err, exists(b.OwedPath(rec.ID)))
	}
	err = settled(&chsnap.StuckError{Cause: boom})
	refused(t, "stuck", err, failure.Conflict, "is paused", NotAnswering, "only in its RAM is lost")
	if d := b.readDebt(t.Context(), rec.ID); d == nil || d.Trouble != NotAnswering {
		t.Errorf("debt %+v", d)
	}
	must(t, b.Suspend(rec, aSnapshot, true))
	must(t, os.Remove(b.OwedPath(rec.ID)))
	if err := settled(nil); err != nil || !exists(b.OwedPath(rec.ID)) {
		t.Errorf("put aside: %v, note %v", err, exists(b.OwedPath(rec.ID)))
	}
}

// TestATroubleIsTriedOnceInAWhile: a VMM that does not let its guest go on costs one
// command its time, and what is seen of it says so until it has come to itself.
func TestATroubleIsTriedOnceInAWhile(t *testing.T) {
	b := newBed(t, Options{Patience: quick}, "CHSIM_FAIL=vm.resume=fail")
	b.create(t, "web", true)
	rec := b.owe(t, "web")
	_, err := b.Rescue(t.Context(), never)
	refused(t, "rescue", err, failure.Conflict, "frozen", "cocoon vm stop web")
	first := b.readDebt(t.Context(), rec.ID)
	if first == nil || first.Trouble != Frozen {
		t.Fatalf("debt %+v", first)
	}
	calm := &bed{New(b.st, b.images, Options{RunDir: b.o.RunDir, Binary: b.o.Binary, Patience: 0}), "", ""}
	if names, err := calm.Rescue(t.Context(), never); err != nil || names != nil {
		t.Errorf("at once again: %q, %v", names, err)
	}
	seen := b.get(t, "web")
	if b.Look(t.Context(), seen); seen.State != Paused || seen.Trouble != Frozen {
		t.Errorf("seen as %s, trouble %q", seen.State, seen.Trouble)
	}
	refused(t, "resume", b.Resume(t.Context(), "web"), failure.Conflict, "frozen")
	_, err = b.Start(t.Context(), "web", StartOptions{})
	refused(t, "start", err, failure.Conflict, "cocoon vm resume web may resume it")
	must(t, b.inVain(t.Context(), rec.ID, NotAnswering))
	must(t, os.WriteFile(b.OwedPath(rec.ID), []byte("torn"), 0o600))
	if d := b.readDebt(t.Context(), rec.ID); d != nil {
		t.Errorf("a torn note says %+v", d)
	}
	must(t, b.told(t).Kill(t.Context(), rec.ID))
}

// TestWhatWasPutAsideIsWokenOnce, and after a wake that failed not at once again.
func TestWhatWasPutAsideIsWokenOnce(t *testing.T) {
	b := newBed(t, Options{})
	rec := b.create(t, "web", false)
	must(t, b.Suspend(rec, aSnapshot, true))
	_, err := b.OweResume(t.Context(), rec)
	must(t, err)
	woken, boom := 0, errors.New("boom")
	wake := func(err error) Waker {
		return func(_ context.Context, rec *Record) error {
			woken++
			if rec.Sleep == nil || !rec.Sleep.Aside {
				t.Errorf("%s is to be woken, and sleeps as %+v", rec.Name, rec.Sleep)
			}
			return err
		}
	}
	if names, err := b.Rescue(t.Context(), wake(boom)); !errors.Is(err, boom) || names != nil {
		t.Errorf("a wake that fails: %q, %v", names, err)
	}
	if names, err := b.Rescue(t.Context(), wake(nil)); err != nil || names != nil || woken != 1 {
		t.Errorf("at once again: %q, %v, woken %d times", names, err, woken)
	}
	old := debt{Tried: time.Now().Add(-time.Hour)}
	writeDebt(t, b, rec.ID, old)
	if names, err := b.Rescue(t.Context(), wake(nil)); err != nil || !slices.Equal(names, []string{"web"}) || woken != 2 || exists(b.OwedPath(rec.ID)) {
		t.Errorf("later: %q, %v, woken %d times", names, err, woken)
	}
}

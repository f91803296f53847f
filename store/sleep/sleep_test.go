package sleep

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

const someVM = "0123456789abcdef0123456789abcdef"

func open(t *testing.T, root string, o store.Options) *store.Store {
	t.Helper()
	o.Create = true
	st, err := store.Open(t.Context(), root, o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// saved publishes a snapshot of nothing.
func saved(t *testing.T, st *store.Store, m store.Meta) store.ID {
	t.Helper()
	l, err := st.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	in, err := st.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	d, err := in.Put(t.Context(), store.MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(t.Context(), store.Spec{CHConfig: d.Digest, CHState: d.Digest}, m)
	if err != nil {
		t.Fatal(err)
	}
	return sn.ID
}

func fallAsleep(t *testing.T, st *store.Store, on store.ID) {
	t.Helper()
	record, err := json.Marshal(store.VMRef{ID: someVM, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(Suspension{Version: Version, Snapshot: on, Record: record})
	if err := errors.Join(err, os.MkdirAll(st.Path("vms", someVM), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := Document.Write(st.Path("vms", someVM, File), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNothingTakesTheRAMOfASleeper: no force, and no store that was opened without
// knowing of sleepers.
func TestNothingTakesTheRAMOfASleeper(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	st := open(t, root, store.Options{Veto: Veto})
	bed := saved(t, st, store.Meta{Own: map[string]string{Label: LabelOf(someVM, 2)}})
	fallAsleep(t, st, bed)
	for _, force := range []bool{false, true} {
		if err := st.Remove(t.Context(), bed, store.RemoveOptions{Force: force}); !errors.Is(err, failure.Conflict) || failure.HintOf(err) == "" {
			t.Errorf("rm, force %v: %v", force, err)
		}
		if err := open(t, root, store.Options{}).Remove(t.Context(), bed, store.RemoveOptions{Force: force}); err == nil {
			t.Errorf("rm by one who knows of no sleeper, force %v, went through", force)
		}
	}
	if err := Drop(t.Context(), st, bed); !errors.Is(err, failure.Conflict) {
		t.Errorf("drop: %v", err)
	}
	if _, err := st.Get(t.Context(), bed); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(st.Path("vms", someVM, File)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Drop(t.Context(), st, bed); err != nil {
			t.Errorf("drop of one nobody sleeps on: %v", err)
		}
	}
}

// TestAnUnreadableSuspensionKeepsEverySnapshot: on which one the VM sleeps is not
// known.
func TestAnUnreadableSuspensionKeepsEverySnapshot(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "root"), store.Options{Veto: Veto})
	id := saved(t, st, store.Meta{})
	for name, text := range map[string]string{
		"torn": `{"version":1,"snap`, "of a newer program": `{"version":2,"record":{"id":"` + someVM + `"}}`,
		"of another VM": `{"version":1,"snapshot":"` + string(id) + `","record":{"id":"f"}}`,
	} {
		if err := errors.Join(os.MkdirAll(st.Path("vms", someVM), 0o700), os.WriteFile(st.Path("vms", someVM, File), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := st.Remove(t.Context(), id, store.RemoveOptions{Force: true}); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: rm: %v", name, err)
		}
	}
}

// TestABedIsWhatTheOperatorHasNotTaken: one that he named, protected or took the
// label of stays; of one whose meta.json is lost nobody knows, so it stays too.
func TestABedIsWhatTheOperatorHasNotTaken(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "root"), store.Options{Veto: Veto})
	own := map[string]string{Label: LabelOf(someVM, 2)}
	bed := saved(t, st, store.Meta{Own: own})
	old := saved(t, st, store.Meta{Own: map[string]string{Label: someVM}}) // as programs wrote that did not count
	stays := []store.ID{
		saved(t, st, store.Meta{}), saved(t, st, store.Meta{Own: own, Name: "kept"}), saved(t, st, store.Meta{Own: own, Protected: true}),
	}
	lost := saved(t, st, store.Meta{Own: own})
	if err := os.Truncate(st.Path("snapshots", string(lost), "meta.json"), 0); err != nil {
		t.Fatal(err)
	}
	beds, err := Beds(t.Context(), st)
	if err != nil || len(beds) != 2 {
		t.Fatalf("beds %+v, %v", beds, err)
	}
	for _, b := range beds {
		if b.VM != someVM || b.Snapshot == bed && b.Woken != 2 || b.Snapshot == old && b.Woken != 0 {
			t.Errorf("bed %+v", b)
		}
	}
	for _, id := range stays {
		if err := Drop(t.Context(), st, id); err != nil {
			t.Error(err)
		}
		if _, err := st.Get(t.Context(), id); err != nil {
			t.Errorf("dropped: %v", err)
		}
	}
	if err := Drop(t.Context(), st, lost); !errors.Is(err, failure.Damaged) {
		t.Errorf("drop of one that does not say what it is for: %v", err)
	}
}

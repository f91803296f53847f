package store

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
)

// TestReservedLabelsAreGivenByNobody: with one of them a snapshot is taken for
// another's RAM, and removed.
func TestReservedLabelsAreGivenByNobody(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "root"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	commit := func(m Meta) (*Snapshot, error) {
		in, err := s.Ingest(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		d, err := in.Put(t.Context(), MediaTypeCHConfig, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		return in.Commit(t.Context(), Spec{CHConfig: d.Digest, CHState: d.Digest}, m)
	}
	const own = document.ReservedLabels + "own"
	for _, k := range []string{own, "cocoon.", "cocoon.other"} {
		if _, err := commit(Meta{Labels: map[string]string{k: "x"}}); !errors.Is(err, failure.Usage) {
			t.Errorf("a snapshot with label %s: %v", k, err)
		}
	}
	plain, err := commit(Meta{Labels: map[string]string{"cocoonx": "y", "tier": "front"}})
	if err != nil {
		t.Fatal(err)
	}
	set := func(id ID, k, v string) error {
		return s.SetMeta(t.Context(), id, func(m *Meta) error { m.Labels[k] = v; return nil })
	}
	if err := set(plain.ID, own, "x"); !errors.Is(err, failure.Usage) {
		t.Errorf("tagged so afterwards: %v", err)
	}
	asleep, err := commit(Meta{Own: map[string]string{own: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := set(asleep.ID, own, "b"); !errors.Is(err, failure.Usage) {
		t.Errorf("changed: %v", err)
	}
	if err := set(asleep.ID, "tier", "back"); err != nil {
		t.Errorf("another label of one that has a reserved one: %v", err)
	}
	taken := s.SetMeta(t.Context(), asleep.ID, func(m *Meta) error { delete(m.Labels, own); return nil })
	if taken != nil {
		t.Errorf("its label taken away: %v", taken)
	}
}

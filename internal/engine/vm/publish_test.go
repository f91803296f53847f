package vm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestRecordsArePublishedTogether or, where one name was taken meanwhile, none.
func TestRecordsArePublishedTogether(t *testing.T) {
	m := newManager(t)
	lease, err := m.st.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	reserved := func(names ...string) (recs []*Record) {
		for _, name := range names {
			rec, unlock, err := m.Reserve(t.Context(), lease, name, "test")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(unlock)
			recs = append(recs, rec)
		}
		return recs
	}
	first, second := reserved("a-1", "a-2"), reserved("b-1", "a-2", "b-3")
	if err := m.Publish(t.Context(), first...); err != nil {
		t.Fatal(err)
	}
	if err := m.Publish(t.Context(), second...); !errors.Is(err, failure.Conflict) {
		t.Errorf("a name was taken: %v, want %v", err, failure.Conflict)
	}
	all, err := m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, rec := range all {
		names = append(names, rec.Name)
	}
	if diff := cmp.Diff([]string{"a-1", "a-2"}, names); diff != "" {
		t.Errorf("VMs (-want +got):\n%s", diff)
	}
	for _, rec := range second {
		left, err := os.ReadDir(m.Dir(rec.ID))
		if err != nil || len(left) != 2 || left[0].Name() != "lock" || left[1].Name() != "making" {
			t.Errorf("%s: left %v, %v; want its lock, and the note that it is being made", filepath.Base(m.Dir(rec.ID)), left, err)
		}
	}
	for _, rec := range all {
		if r, err := LookAt(m.Dir(rec.ID)); err != nil || r.Making || !r.Recorded {
			t.Errorf("%s exists: %+v, %v", rec.Name, r, err)
		}
	}
}

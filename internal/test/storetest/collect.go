package storetest

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/trash"
)

// reuseAfterRemove: pages of a removed snapshot may be reused by whoever named
// them in a lease first, whatever the collector does meanwhile.
func reuseAfterRemove(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 40)
	old := MustPublish(t, s, "old", ram)
	l := Lease(t, s)
	if err := l.Hold(t.Context(), document.Edges(old)...); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, s, old.ID)
	h.collect(t, s)
	sn, err := Publish(t.Context(), s, l, store.Meta{Name: "new"}, ram)
	if err := errors.Join(err, l.Release()); err != nil {
		t.Fatal(err)
	}
	h.collect(t, s)
	ReadsBack(t, s, sn.ID, ram)
	intact(t, s, 1)

	// The same without a lease: gone, and written anew.
	mustRemove(t, s, sn.ID)
	h.collect(t, s)
	if left := blobs(t, s); len(left) > 0 {
		t.Errorf("blobs that nobody names are left: %v", left)
	}
	again := MustPublish(t, s, "again", ram)
	ReadsBack(t, s, again.ID, ram)
}

// leaseBlocksSweep: what a lease names stays until the lease is released, also
// blobs that the ingest has only just stored.
func leaseBlocksSweep(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 20)
	sn := MustPublish(t, s, "", ram)
	holder := Lease(t, s)
	if err := holder.Hold(t.Context(), PackOf(t, sn)); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, s, sn.ID)
	writer := Lease(t, s)
	in := begin(t, s, writer)
	config, err := in.Put(t.Context(), store.MediaTypeCHConfig, []byte(`{"new":true}`))
	if err != nil {
		t.Fatal(err)
	}
	h.collect(t, s)
	want := []string{PackOf(t, sn).Encoded(), config.Digest.Encoded()}
	slices.Sort(want)
	if got := blobs(t, s); !slices.Equal(got, want) {
		t.Errorf("blobs %v, want the two that leases name: %v", got, want)
	}
	if _, err := os.Stat(in.Dir()); err != nil {
		t.Errorf("the ingest of a living process: %v", err)
	}
	if err := errors.Join(holder.Release(), writer.Release()); err != nil {
		t.Fatal(err)
	}
	h.collect(t, s)
	if left := blobs(t, s); len(left) > 0 {
		t.Errorf("blobs left after the release: %v", left)
	}
	residue(t, s)
}

// deadLeaseReaped: the lease of a holder that died protects nothing, and goes
// with its ingest. A lock that nobody holds is all that a death leaves.
func deadLeaseReaped(t *testing.T, h Harness) {
	s := h.open(t)
	l := Lease(t, s)
	in := begin(t, s, l)
	if _, err := in.Put(t.Context(), store.MediaTypeCHConfig, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in.Dir()+"/blob-99", make([]byte, 1<<20), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := l.File().Close(); err != nil {
		t.Fatal(err)
	}
	if live, err := s.Leases().Live(t.Context()); err != nil || len(live) > 0 {
		t.Errorf("living leases: %v, %v", live, err)
	}
	h.collect(t, s)
	residue(t, s)
	if left := blobs(t, s); len(left) > 0 {
		t.Errorf("blobs left: %v", left)
	}
}

// removeInUse: a snapshot that a lease holds is not removed, protected or not.
func removeInUse(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 9)
	sn := MustPublish(t, s, "used", ram)
	l := Lease(t, s)
	if err := l.HoldSnapshot(t.Context(), sn.ID); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		wants(t, "rm in use", s.Remove(t.Context(), sn.ID, store.RemoveOptions{Force: force}), failure.Conflict)
	}
	h.collect(t, s)
	ReadsBack(t, s, sn.ID, ram)
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), sn.ID, func(m *store.Meta) error { m.Protected = true; return nil }); err != nil {
		t.Fatal(err)
	}
	wants(t, "rm of a protected one", s.Remove(t.Context(), sn.ID, store.RemoveOptions{}), failure.Conflict)
	if err := s.Remove(t.Context(), sn.ID, store.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

// removeOrHold: who holds a snapshot and then still finds it keeps it, in
// whatever instant another removes it: one of the two loses, and is told.
func removeOrHold(t *testing.T, h Harness) {
	s := h.open(t)
	for round := range 60 {
		sn := MustPublish(t, s, "", Image(round, 3))
		l := Lease(t, s)
		removed := make(chan error, 1)
		go func() { removed <- s.Remove(t.Context(), sn.ID, store.RemoveOptions{}) }()
		time.Sleep(time.Duration(round) * 5 * time.Microsecond)
		if err := l.HoldSnapshot(t.Context(), sn.ID); err != nil {
			t.Fatal(err)
		}
		_, held := s.Get(t.Context(), sn.ID)
		if held == nil {
			wants(t, "rm of what is held", <-removed, failure.Conflict)
			_, held = s.Get(t.Context(), sn.ID)
		} else {
			wants(t, "a look at what is removed", held, failure.NotFound)
			held = <-removed
		}
		if held != nil {
			t.Fatalf("round %d: %v", round, held)
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// trashResume: what a collector moved to the trash before it died is gone after
// the next one, whole folders too.
func trashResume(t *testing.T, h Harness) {
	s := h.open(t)
	gone := MustPublish(t, s, "gone", Image(1, 9))
	MustPublish(t, s, "kept", Image(2, 9))
	mustRemove(t, s, gone.ID)
	sweep := s.Trash().Run()
	err := errors.Join(sweep.Prepare(), sweep.Window(t.Context(), func(w *trash.Window) error {
		return w.Discard(s.BlobPath(PackOf(t, gone)))
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.Path("trash", "gc-half", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.collect(t, s)
	residue(t, s)
	intact(t, s, 1)
}

// twoCollectors: collectors that run at once exclude each other, and none takes
// what a publish beside them needs.
func twoCollectors(t *testing.T, h Harness) {
	s := h.open(t)
	var running sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		running.Go(func() { collectUntil(t, h, s, stop) })
	}
	kept := 0
	for i := range 24 {
		sn := MustPublish(t, s, "", Image(i%3, 12)) // contents repeat: blobs are reused
		if i%4 == 0 {
			kept++
			continue
		}
		mustRemove(t, s, sn.ID)
	}
	close(stop)
	running.Wait()
	h.collect(t, s)
	intact(t, s, kept)
	residue(t, s)
}

func collectUntil(t testing.TB, h Harness, s *store.Store, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := busyOr(h.Collect(context.Background(), s)); err != nil {
			t.Errorf("collect: %v", err)
			return
		}
	}
}

// Package storetest holds any store against the rules that package store
// promises, on whatever file system or in whatever state the store is.
//
// [Run] is one suite for all: a fresh folder, a tmpfs, a store that a power cut
// left half-written. Each case opens a store of its own, works on it as the
// commands do (lease, ingest, commit, remove) and collects with the collector
// that the [Harness] names. A bug found in a store adds a case here, so that no
// kind of store gets it again.
package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Harness says what the suite runs over.
type Harness struct {
	// Root makes the folder of a store: missing, empty, or a store that must
	// behave like an empty one after a collection.
	Root func(t testing.TB) string
	// Collect runs the collector once, as `cocoon gc` does. The suite cannot
	// name it: collectors stand on the store, not beside it.
	Collect func(ctx context.Context, s *store.Store) error
	// Keys encrypt what the suite stores; nil is a plain store.
	Keys *keyring.Ring
}

// cases, in the order of a snapshot's life.
var cases = []struct {
	name string
	run  func(t *testing.T, h Harness)
}{
	{"Basic", basic},
	{"CommitExists", commitExists},
	{"CommitWrongDigest", commitWrongDigest},
	{"AbortLeavesNothing", abortLeavesNothing},
	{"ReuseAfterRemove", reuseAfterRemove},
	{"LeaseBlocksSweep", leaseBlocksSweep},
	{"DeadLeaseReaped", deadLeaseReaped},
	{"RemoveInUse", removeInUse},
	{"RemoveOrHold", removeOrHold},
	{"ResolvePrefix", resolvePrefix},
	{"ResolveAmbiguous", resolveAmbiguous},
	{"LinksLie", linksLie},
	{"ComesByHand", comesByHand},
	{"NamesOfFormerPrograms", namesOfFormerPrograms},
	{"ListDuringPublish", listDuringPublish},
	{"TrashResume", trashResume},
	{"TwoGC", twoCollectors},
	{"ReadOnlyStore", readOnlyStore},
	{"UnknownFormat", unknownFormat},
	{"CheckBitFlip", checkBitFlip},
	{"CheckTruncated", checkTruncated},
	{"CheckMissing", checkMissing},
	{"RebuildIndex", rebuildIndex},
	{"EmptyMemory", emptyMemory},
	{"SparseMemory", sparseMemory},
	{"HugeOffset", hugeOffset},
	{"CloseTwice", closeTwice},
}

// Run runs every case as a subtest.
func Run(t *testing.T, h Harness) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, h) })
	}
}

// open makes a store and brings it to the state of an empty one.
func (h Harness) open(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), h.Root(t), store.Options{Create: true, Veto: sleep.Veto, Keys: h.Keys})
	if err != nil {
		t.Fatal(err)
	}
	h.collect(t, s)
	if left := blobs(t, s); len(left) > 0 {
		t.Fatalf("a store that should be empty holds blobs %v after a collection", left)
	}
	return s
}

// reopen opens the same store, as the next process does.
func (h Harness) reopen(t testing.TB, s *store.Store) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), s.Root(), store.Options{Veto: sleep.Veto, Keys: h.Keys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (h Harness) collect(t testing.TB, s *store.Store) {
	t.Helper()
	if err := h.Collect(t.Context(), s); err != nil {
		t.Fatalf("collect: %v", err)
	}
}

// wants fails unless err is of the class.
func wants(t testing.TB, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want %v", what, err, class)
	}
}

// intact fails unless a full reading finds nothing wrong with n snapshots.
func intact(t testing.TB, s *store.Store, n int) {
	t.Helper()
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) > 0 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
	all, err := s.Index().Summaries(t.Context())
	if err != nil || len(all) != n {
		t.Errorf("%d snapshots are listed, want %d (%v)", len(all), n, err)
	}
}

// residue fails when something that only a working process owns is left.
func residue(t testing.TB, s *store.Store) {
	t.Helper()
	for _, folder := range []string{"ingest", "leases", "trash"} {
		if left := entries(t, s.Path(folder)); len(left) > 0 {
			t.Errorf("%s holds %v", folder, left)
		}
	}
}

// busyOr is nil for success and for "another one is at it".
func busyOr(err error) error {
	if errors.Is(err, failure.Busy) {
		return nil
	}
	return err
}

package refs

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// manyEntries is an index of so many holders with ten digests each.
func manyEntries(holders int) func(yield func(Entry, error) bool) {
	return func(yield func(Entry, error) bool) {
		for i := range holders {
			e := Entry{Holder: Holder{Kind: "snapshot", ID: fmt.Sprintf("%032x", i*7919), Name: fmt.Sprint("snap-", i)}}
			for j := range 10 {
				e.Digests = append(e.Digests, digest.FromString(fmt.Sprint(i, j)))
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// BenchmarkRebuild is the index of 10,000 snapshots and 100,000 blobs.
func BenchmarkRebuild(b *testing.B) {
	db := New(filepath.Join(b.TempDir(), "refs.db"), Options{})
	for b.Loop() {
		if err := db.Rebuild(b.Context(), manyEntries(10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecord is what a publication adds to that index.
func BenchmarkRecord(b *testing.B) {
	db := New(filepath.Join(b.TempDir(), "refs.db"), Options{})
	if err := db.Rebuild(b.Context(), manyEntries(10_000)); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		e := Entry{Holder: Holder{Kind: "snapshot", ID: fmt.Sprintf("f%031x", i)}, Digests: []digest.Digest{digest.FromString(fmt.Sprint("new", i))}}
		if err := db.Record(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

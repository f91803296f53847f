package refs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func dig(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func newTest(t testing.TB) *DB {
	t.Helper()
	return New(filepath.Join(t.TempDir(), "refs.db"), Options{})
}

func ids(hs []Holder) []string {
	var out []string
	for _, h := range hs {
		out = append(out, h.ID)
	}
	slices.Sort(out)
	return out
}

// TestTheIndexIsAMapOfSets runs random records, forgets and rebuilds against a
// plain map.
func TestTheIndexIsAMapOfSets(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		db := New(filepath.Join(dir, fmt.Sprint(run)), Options{})
		ctx := context.Background()
		model := map[string][]digest.Digest{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			id := fmt.Sprint("s", rapid.IntRange(0, 3).Draw(rt, "holder"))
			h := Holder{Kind: "snapshot", ID: id, Name: "n" + id}
			switch rapid.IntRange(0, 3).Draw(rt, "action") {
			case 0:
				if err := db.Forget(ctx, h); err != nil {
					rt.Fatal(err)
				}
				delete(model, id)
			case 1:
				if err := db.Rebuild(ctx, entriesOf(model)); err != nil {
					rt.Fatal(err)
				}
			default:
				var entries []Entry
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 3), 1, 3).Draw(rt, "holders") {
					id := fmt.Sprint("s", n)
					var ds []digest.Digest
					for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 0, 4, rapid.ID).Draw(rt, "digests") {
						ds = append(ds, dig(i))
					}
					entries = append(entries, Entry{Holder: Holder{Kind: "snapshot", ID: id, Name: "n" + id}, Digests: ds})
					model[id] = ds
				}
				if err := db.Record(ctx, entries...); err != nil {
					rt.Fatal(err)
				}
			}
		}
		compare(rt, db, model)
	})
}

func entriesOf(model map[string][]digest.Digest) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for id, ds := range model {
			if !yield(Entry{Holder: Holder{"snapshot", id, "n" + id}, Digests: ds}, nil) {
				return
			}
		}
	}
}

func compare(t interface{ Fatalf(string, ...any) }, db *DB, model map[string][]digest.Digest) {
	for i := range 6 {
		var want []string
		for id, ds := range model {
			if slices.Contains(ds, dig(i)) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		got, err := db.Holders(context.Background(), dig(i))
		if errors.Is(err, failure.Damaged) && len(model) == 0 {
			return // never written
		}
		if err != nil {
			t.Fatalf("holders: %v", err)
		}
		if diff := cmp.Diff(want, ids(got)); diff != "" {
			t.Fatalf("holders of %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestDamageIsAnErrorAndARebuildHeals: whatever happens to the file, there is
// no panic, no wrong holder, and a rebuild gives the same answers.
func TestDamageIsAnErrorAndARebuildHeals(t *testing.T) {
	model := map[string][]digest.Digest{}
	for i := range 40 {
		model[fmt.Sprint("s", i)] = []digest.Digest{dig(i % 6), dig((i + 1) % 6)}
	}
	db := newTest(t)
	half := maps.Clone(model)
	maps.DeleteFunc(half, func(id string, _ []digest.Digest) bool { return len(id) < 3 })
	if err := db.Rebuild(t.Context(), entriesOf(half)); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(db.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Rebuild(t.Context(), entriesOf(model)); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(db.path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	harms := map[string]func([]byte) []byte{
		"an old copy": func([]byte) []byte { return old },
		"empty":       func([]byte) []byte { return nil },
		"zeroed":      func(b []byte) []byte { return make([]byte, len(b)) },
		"text":        func([]byte) []byte { return []byte("not a database") },
		"half":        func(b []byte) []byte { return b[:len(b)/2] },
		"page":        func(b []byte) []byte { return b[:4096*4] },
	}
	for i := range 200 {
		harms[fmt.Sprint("flip ", i)] = func(b []byte) []byte {
			for range 1 + i%4 {
				b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			}
			return b
		}
	}
	for name, harm := range harms {
		if err := os.WriteFile(db.path, harm(slices.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := db.Holders(t.Context(), dig(0))
		if err == nil {
			for _, h := range got {
				if !slices.Contains(model[h.ID], dig(0)) {
					t.Errorf("%s: %v does not hold it", name, h)
				}
			}
		} else if !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: %v is not damage", name, err)
		}
		_ = db.Record(t.Context(), Entry{Holder: Holder{"vm", "x", ""}}) // no panic
		if err := db.Rebuild(t.Context(), entriesOf(model)); err != nil {
			t.Fatalf("%s: rebuild: %v", name, err)
		}
		compare(t, db, model)
	}
}

func TestGenerationGrows(t *testing.T) {
	db := newTest(t)
	var last uint64
	for range 3 {
		if err := db.Record(t.Context(), Entry{Holder: Holder{"vm", "x", ""}}); err != nil {
			t.Fatal(err)
		}
		n, err := db.Generation(t.Context())
		if err != nil || n <= last {
			t.Fatalf("generation %d after %d (%v)", n, last, err)
		}
		last = n
	}
}

func FuzzDecode(f *testing.F) {
	key := []byte("vm/x")
	f.Add(seal(key, []byte(`{"holder":{"kind":"vm","id":"x"}}`)))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decode(key, b); err != nil && !errors.Is(err, failure.Damaged) {
			t.Error(err)
		}
		e, err := decode(key, seal(key, b))
		if err == nil && e.Holder.Kind == "" && len(b) == 0 {
			t.Error("nothing was decoded")
		}
		if _, err := decode([]byte("vm/y"), seal(key, b)); err == nil {
			t.Error("decoded under another key")
		}
	})
}

// TestTwoMayRebuildAtOnce: neither takes the other's unfinished file.
func TestTwoMayRebuildAtOnce(t *testing.T) {
	db := newTest(t)
	model := map[string][]digest.Digest{"a": {dig(1)}, "b": {dig(2)}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				if err := db.Rebuild(context.Background(), entriesOf(model)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	found, err := db.Holders(t.Context(), dig(1))
	if err != nil || len(found) != 1 {
		t.Errorf("holders %v, %v", found, err)
	}
}

package storetest

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// resolvePrefix: name, id and unique prefix find a snapshot; nothing else does.
func resolvePrefix(t *testing.T, h Harness) {
	s := h.open(t)
	a, b := MustPublish(t, s, "a", Image(1, 3)), MustPublish(t, s, "", Image(2, 3))
	for ref, want := range map[string]store.ID{"a": a.ID, string(b.ID): b.ID, string(b.ID[:12]): b.ID} {
		if got, err := s.Resolve(t.Context(), ref); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"b", "", string(a.ID[:2]), "../x", "a/../a", strings.Repeat("0", 32), "a\x00", strings.Repeat("a", 1<<16)} {
		_, err := s.Resolve(t.Context(), ref)
		wants(t, "resolve of what is no snapshot", err, failure.NotFound)
	}
}

// resolveAmbiguous: a prefix of two ids is refused; a name is preferred to it.
func resolveAmbiguous(t *testing.T, h Harness) {
	s := h.open(t)
	first := map[string]store.ID{}
	for range 2000 { // 4096 prefixes of three: a pair shows up soon
		id := MustPublish(t, s, "", Image(1, 1)).ID
		prefix := string(id[:3])
		other, twice := first[prefix]
		first[prefix] = id
		if !twice {
			continue
		}
		_, err := s.Resolve(t.Context(), prefix)
		wants(t, "a prefix of two ids", err, failure.Conflict)
		if err := s.SetMeta(t.Context(), other, func(m *store.Meta) error { m.Name = prefix; return nil }); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Resolve(t.Context(), prefix); err != nil || got != other {
			t.Errorf("a name that is a prefix too: %s, %v, want %s", got, err, other)
		}
		return
	}
	t.Error("no two ids share three digits")
}

// namesFileLies: whatever happens to the file that says where a name is, names
// are found, are given once, and a claim that came to nothing binds nobody.
func namesFileLies(t *testing.T, h Harness) {
	s := h.open(t)
	rename := func(id store.ID, name string) error {
		return s.SetMeta(t.Context(), id, func(m *store.Meta) error { m.Name = name; return nil })
	}
	a, b := MustPublish(t, s, "a", Image(1, 3)).ID, MustPublish(t, s, "b", Image(2, 3)).ID
	path := s.Path("cache", "names")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := rename(a, "c"); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for state, content := range map[string][]byte{
		"as it is": now, "lost": nil, "empty": {}, "torn": now[:len(now)-3], "noise": []byte("\x00\xff\n"),
		"a bit flipped": append([]byte{now[0] ^ 1}, now[1:]...), "a copy of before": old,
		"a claim of nobody": append(append([]byte{}, old...), claimOfNobody...),
	} {
		if err := ignore(os.Remove(path)); err != nil {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		MustPublish(t, s, "", Image(3, 3)) // it asks for no name, and must not harm those of others
		for name, want := range map[string]store.ID{"c": a, "b": b} {
			if got, err := s.Resolve(t.Context(), name); err != nil || got != want {
				t.Errorf("%s: %s is %s, %v, want %s", state, name, got, err, want)
			}
			wants(t, state+": a name twice", s.NameFree(t.Context(), name), failure.Conflict)
			wants(t, state+": a name twice", rename(map[string]store.ID{"c": b, "b": a}[name], name), failure.Conflict)
		}
		for _, free := range []string{"a", "nobody"} {
			if err := s.NameFree(t.Context(), free); err != nil {
				t.Errorf("%s: %v", state, err)
			}
			_, err := s.Resolve(t.Context(), free)
			wants(t, state+": a name that nobody has", err, failure.NotFound)
		}
	}
}

// claimOfNobody is a line of a publisher that died before it published.
const claimOfNobody = "fe69d8ea 00112233445566778899aabbccddeeff \"nobody\"\n"

// listDuringPublish: whatever a listing shows while others publish and remove is
// whole or gone.
func listDuringPublish(t *testing.T, h Harness) {
	s := h.open(t)
	var publishing sync.WaitGroup
	for w := range 3 {
		publishing.Go(func() {
			if err := publishSome(s, w); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { publishing.Wait(); close(done) }()
	for {
		listed := 0
		for _, err := range s.List(t.Context()) {
			if err != nil {
				t.Errorf("list: %v", err)
			}
			listed++
		}
		sums, err := s.Summaries(t.Context())
		if err != nil {
			t.Errorf("summaries: %v", err)
		}
		for _, x := range sums {
			if x.State != "ready" {
				t.Errorf("a snapshot is listed as %s", x.State)
			}
		}
		select {
		case <-done:
			intact(t, s, 18)
			return
		default:
		}
	}
}

// publishSome publishes twelve snapshots and removes every second one.
func publishSome(s *store.Store, seed int) error {
	ctx := context.Background()
	for i := range 12 {
		l, err := s.Lease(ctx, "publisher")
		if err != nil {
			return err
		}
		sn, err := Publish(ctx, s, l, store.Meta{}, Image(seed*100+i, 6))
		if err := errors.Join(err, l.Release()); err != nil {
			return err
		}
		if i%2 == 0 {
			if err := s.Remove(ctx, sn.ID, store.RemoveOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// unknownFormat: a store of another version or program is refused untouched.
func unknownFormat(t *testing.T, h Harness) {
	s := h.open(t)
	sn := MustPublish(t, s, "a", Image(1, 3))
	format := s.Path("format")
	ours, err := os.ReadFile(format)
	if err != nil {
		t.Fatal(err)
	}
	for alien, class := range map[string]error{
		`{"format":"cocoon-store","version":3}`: failure.Incompatible,
		`{"format":"other","version":1}`:        failure.Incompatible,
		`{`:                                     failure.Incompatible,
		"":                                      failure.Damaged, // it was lost, and can be made again
	} {
		if err := os.WriteFile(format, []byte(alien), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := store.Open(t.Context(), s.Root(), store.Options{Create: true, Keys: h.Keys})
		wants(t, "format "+alien, err, class)
		if got, err := os.ReadFile(format); err != nil || string(got) != alien {
			t.Errorf("format %s became %s (%v)", alien, got, err)
		}
	}
	if err := os.WriteFile(format, ours, 0o600); err != nil {
		t.Fatal(err)
	}
	ReadsBack(t, s, sn.ID, Image(1, 3))
}

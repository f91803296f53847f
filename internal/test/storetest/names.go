package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
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

// linksLie: whatever stands in the folder of names, a name is found, is given
// once, and a link that leads to nobody binds nobody.
func linksLie(t *testing.T, h Harness) {
	s := h.open(t)
	rename := func(id store.ID, name string) error {
		return s.SetMeta(t.Context(), id, func(m *store.Meta) error { m.Name = name; return nil })
	}
	a, b := MustPublish(t, s, "a", Image(1, 3)).ID, MustPublish(t, s, "b", Image(2, 3)).ID
	if err := rename(a, "c"); err != nil {
		t.Fatal(err)
	}
	folder := s.Path("names")
	spoil := func(name, to string) error {
		path := filepath.Join(folder, name)
		return errors.Join(os.Remove(path), os.Symlink(to, path))
	}
	for state, harm := range map[string]func() error{
		"as it is": func() error { return nil },
		"a link of nobody": func() error {
			return os.Symlink("../snapshots/00112233445566778899aabbccddeeff", filepath.Join(folder, "nobody"))
		},
		"a link to who is renamed": func() error { return os.Symlink("../snapshots/"+string(a), filepath.Join(folder, "a")) },
		"leads to another":         func() error { return spoil("b", "../snapshots/"+string(a)) },
		"leads to nobody":          func() error { return spoil("b", "../snapshots/00112233445566778899aabbccddeeff") },
		"leads elsewhere":          func() error { return spoil("c", "/etc/passwd") },
		"leads to itself":          func() error { return spoil("c", "c") },
		"is a file": func() error {
			return errors.Join(os.Remove(filepath.Join(folder, "b")), os.WriteFile(filepath.Join(folder, "b"), nil, 0o600))
		},
		"is a folder": func() error {
			return errors.Join(os.Remove(filepath.Join(folder, "b")), os.Mkdir(filepath.Join(folder, "b"), 0o700))
		},
		"strangers": func() error {
			return errors.Join(os.WriteFile(filepath.Join(folder, "x y"), nil, 0o600), os.Mkdir(filepath.Join(folder, ".d"), 0o700))
		},
		"the mark is lost": func() error {
			return errors.Join(os.Remove(filepath.Join(folder, ".whole")), os.Remove(filepath.Join(folder, "b")))
		},
		"the folder is lost":   func() error { return os.RemoveAll(folder) },
		"a copy without links": func() error { return errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o700)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(folder); err != nil { // it is made when the store is opened
			s = h.reopen(t, s)
		}
		for name, want := range map[string]store.ID{"c": a, "b": b} {
			wants(t, state+": a name twice", rename(map[string]store.ID{"c": b, "b": a}[name], name), failure.Conflict)
			wants(t, state+": a name twice", s.Names().Free(t.Context(), name), failure.Conflict)
			if got, err := s.Resolve(t.Context(), name); err != nil || got != want {
				t.Errorf("%s: %s is %s, %v, want %s", state, name, got, err, want)
			}
		}
		for _, free := range []string{"a", "nobody"} {
			if err := s.Names().Free(t.Context(), free); err != nil {
				t.Errorf("%s: %v", state, err)
			}
			_, err := s.Resolve(t.Context(), free)
			wants(t, state+": a name that nobody has", err, failure.NotFound)
			sn := MustPublish(t, s, free, Image(3, 3))
			if err := s.Remove(t.Context(), sn.ID, store.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// comesByHand: a snapshot that was taken away and put back has its name, and one
// that comes without its link has it as soon as somebody asked for it by name, or
// it was collected.
func comesByHand(t *testing.T, h Harness) {
	s := h.open(t)
	b := MustPublish(t, s, "b", Image(2, 3)).ID
	at, aside := s.Path("snapshots", string(b)), s.Path("aside")
	if err := os.Rename(at, aside); err != nil {
		t.Fatal(err)
	}
	MustPublish(t, s, "d", Image(5, 3))
	if err := os.Rename(aside, at); err != nil {
		t.Fatal(err)
	}
	for how, notice := range map[string]func() error{
		"it came back":   func() error { return nil },
		"asked for":      func() error { _, err := s.Names().Resolve(t.Context(), "b"); return err },
		"collected":      func() error { return h.Collect(t.Context(), s) },
		"it is repaired": func() error { return s.Names().Complete(t.Context()) },
	} {
		if how != "it came back" {
			if err := os.Remove(s.Path("names", "b")); err != nil {
				t.Fatal(err)
			}
		}
		if err := notice(); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		wants(t, how+": a name twice, foreseen", s.Names().Free(t.Context(), "b"), failure.Conflict)
		l := Lease(t, s)
		_, err := Publish(t.Context(), s, l, store.Meta{Name: "b"}, Image(3, 3))
		wants(t, how+": a name twice", errors.Join(err, l.Release()), failure.Conflict)
		if got, err := s.Resolve(t.Context(), "b"); err != nil || got != b {
			t.Errorf("%s: b is %s, %v, want %s", how, got, err, b)
		}
	}
}

// namesOfFormerPrograms: programs that knew of no links kept a file of claims, and
// make it when they come back. What they named is found, and given once.
func namesOfFormerPrograms(t *testing.T, h Harness) {
	s := h.open(t)
	a := MustPublish(t, s, "a", Image(1, 3)).ID
	for i, gone := range []string{"names", "names/a", "names/.whole"} {
		if err := errors.Join(os.RemoveAll(s.Path(gone)), os.WriteFile(s.Path("cache", "names"), []byte("claims"), 0o600), os.WriteFile(s.Path("cache", "names.voucher"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		s = h.reopen(t, s)
		if got, err := s.Resolve(t.Context(), "a"); err != nil || got != a {
			t.Errorf("without %s: a is %s, %v", gone, got, err)
		}
		l := Lease(t, s)
		_, err := Publish(t.Context(), s, l, store.Meta{Name: "a"}, Image(2, 3))
		wants(t, "without "+gone+": a name twice", errors.Join(err, l.Release()), failure.Conflict)
		MustPublish(t, s, fmt.Sprint("b", i), Image(3, 3))
		for _, former := range []string{"names", "names.voucher"} {
			if _, err := os.Lstat(s.Path("cache", former)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("without %s: cache/%s stays: %v", gone, former, err)
			}
		}
	}
}

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
		sums, err := s.Index().Summaries(t.Context())
		if err != nil {
			t.Errorf("summaries: %v", err)
		}
		for _, x := range sums {
			if x.State != store.Ready {
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

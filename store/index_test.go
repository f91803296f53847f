package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/refs"
)

// TestASummaryIsEncodedAsItIs: what a listing says is JSON already is what would
// be encoded, also after a snapshot was renamed.
func TestASummaryIsEncodedAsItIs(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	a := tiny(t, s, "a")
	age(t, &Snapshot{Dir: s.Path("snapshots", string(tiny(t, s, "b")))})
	for round, name := range []string{"a", "renamed", "again"} {
		if err := s.SetMeta(t.Context(), a, func(m *Meta) error { m.Name = name; return nil }); err != nil {
			t.Fatal(err)
		}
		age(t, &Snapshot{Dir: s.Path("snapshots", string(a))}) // else it is not remembered
		known := 0
		for range 2 {
			all, err := s.Index().Summaries(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			known = 0
			for _, x := range all {
				text, err := json.Marshal(x)
				if err != nil {
					t.Fatal(err)
				}
				if x.Encoded() != "" && x.Encoded() != string(text) {
					t.Errorf("round %d: %s, want %s", round, x.Encoded(), text)
				}
				if x.ID == a && x.Name != name {
					t.Errorf("round %d: %q is listed, the name is %q", round, x.Name, name)
				}
				if x.Encoded() != "" {
					known++
				}
			}
		}
		if known != 2 {
			t.Errorf("round %d: %d of 2 are known in the second listing", round, known)
		}
	}
}

// TestAListIsTheSameWhateverBecameOfTheIndex: lost, of another day, another store's,
// locked, torn, or with any bit another one.
func TestAListIsTheSameWhateverBecameOfTheIndex(t *testing.T) {
	s, other := openTest(t), openTest(t)
	a, b := tiny(t, s, "a"), tiny(t, s, "b")
	for _, id := range []ID{a, b, tiny(t, other, "c")} {
		st := map[bool]*Store{true: s, false: other}[id == a || id == b]
		age(t, &Snapshot{Dir: st.Path("snapshots", string(id))})
	}
	list := func(st *Store) string {
		t.Helper()
		all, err := st.Index().Summaries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	list(other)
	list(s)
	old, err := os.ReadFile(s.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), a, func(m *Meta) error { m.Name = "renamed"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), b, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	d := tiny(t, s, "d")
	if err := os.Remove(s.Path("refs.db")); err != nil {
		t.Fatal(err)
	}
	want := list(s)
	for _, name := range []string{"renamed", string(d)} {
		if !strings.Contains(want, name) {
			t.Fatalf("%s is not in %s", name, want)
		}
	}
	foreign, err := os.ReadFile(other.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	harms := map[string]func() error{
		"lost":      func() error { return os.RemoveAll(s.Path("refs.db")) },
		"stale":     func() error { return os.WriteFile(s.Path("refs.db"), old, 0o600) },
		"another's": func() error { return os.WriteFile(s.Path("refs.db"), foreign, 0o600) },
		"torn":      func() error { return os.WriteFile(s.Path("refs.db"), old[:len(old)/2], 0o600) },
		"noise":     func() error { return os.WriteFile(s.Path("refs.db"), []byte("[{"), 0o600) },
		"a lie": func() error {
			return refs.Write(s.Path("refs.db"), identity(t, s), []refs.Row{{Key: string(a), Value: []byte{1, 0xff}}}, nil)
		},
		"a link": func() error {
			return errors.Join(os.RemoveAll(s.Path("refs.db")), os.Symlink("/dev/zero", s.Path("refs.db")))
		},
		"unwritable": func() error { return errors.Join(os.RemoveAll(s.Path("refs.db")), os.Mkdir(s.Path("refs.db"), 0o700)) },
	}
	for what, harm := range harms {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := list(s); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		if err := os.RemoveAll(s.Path("refs.db")); err != nil {
			t.Fatal(err)
		}
	}
	age(t, &Snapshot{Dir: s.Path("snapshots", string(a))})
	age(t, &Snapshot{Dir: s.Path("snapshots", string(d))})
	list(s)
	now, err := os.ReadFile(s.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(now); i += 97 {
		flipped := bytes.Clone(now)
		flipped[i] ^= 1 << (i % 8)
		if err := os.WriteFile(s.Path("refs.db"), flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := list(s); got != want {
			t.Fatalf("byte %d: %s, want %s", i, got, want)
		}
	}
}

// TestWhatCouldNotBeReadIsAskedAgain: neither damage nor a key that was missing is
// remembered by the index.
func TestWhatCouldNotBeReadIsAskedAgain(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 1<<20))
	age(t, sn)
	config := s.BlobPath(sn.Manifest.Config.Digest)
	state := func() string {
		t.Helper()
		all, err := s.Index().Summaries(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return fmt.Sprintf("%s %v", all[0].State, all[0].Memory.ZeroBytes > 0)
	}
	if err := os.Rename(config, config+".aside"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := state(); got != "damaged false" {
			t.Errorf("without its config: %s", got)
		}
	}
	if err := os.Rename(config+".aside", config); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "ready true" {
		t.Errorf("with it again: %s", got)
	}
}

// identity of a store, as its index has it.
func identity(t *testing.T, s *Store) string {
	t.Helper()
	id, err := owner.Read(s.Root())
	if err != nil || id == "" {
		t.Fatalf("identity %q, %v", id, err)
	}
	return id
}

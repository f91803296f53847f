package storetest

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// lostClaims: a snapshot whose claim to its name went with the power, or that was
// put back by hand, keeps the name. Whoever wants it is refused at once, whatever
// vouches for the file of names, and from then on before he begins.
func lostClaims(t *testing.T, h Harness) {
	for state, lose := range map[string]func(t *testing.T, s *store.Store, id store.ID){
		"the end of the file was lost": func(t *testing.T, s *store.Store, _ store.ID) { cutNames(t, s, 0) },
		"and it grew again":            func(t *testing.T, s *store.Store, _ store.ID) { cutNames(t, s, 1) },
		"and it grew longer":           func(t *testing.T, s *store.Store, _ store.ID) { cutNames(t, s, 2) },
		"it was put back by hand":      putBack,
	} {
		s := h.open(t)
		MustPublish(t, s, "a", Image(1, 3))
		b := MustPublish(t, s, "b", Image(2, 3)).ID
		lose(t, s, b)
		l := Lease(t, s)
		_, err := Publish(t.Context(), s, l, store.Meta{Name: "b"}, Image(3, 3))
		wants(t, state+": a name twice", errors.Join(err, l.Release()), failure.Conflict)
		MustPublish(t, s, "c", Image(4, 3))
		wants(t, state+": a name twice, foreseen", s.NameFree(t.Context(), "b"), failure.Conflict)
		if got, err := s.Resolve(t.Context(), "b"); err != nil || got != b {
			t.Errorf("%s: b is %s, %v, want %s", state, got, err, b)
		}
	}
}

// cutNames takes the last claim off the file of names and appends some of nobody
// that are as long.
func cutNames(t *testing.T, s *store.Store, nobody int) {
	t.Helper()
	path := s.Path("cache", "names")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte{'\n'})
	kept := bytes.Join(lines[:len(lines)-2], nil) // behind the last one is nothing
	claim := "14ed485f 00112233445566778899aabbccddeeff \"x\"\n"
	if err := os.WriteFile(path, append(kept, strings.Repeat(claim, nobody)...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// putBack lets the newest snapshot come back after the file of names was made
// whole without it.
func putBack(t *testing.T, s *store.Store, id store.ID) {
	t.Helper()
	at, aside := s.Path("snapshots", string(id)), s.Path("aside")
	if err := os.Rename(at, aside); err != nil {
		t.Fatal(err)
	}
	cutNames(t, s, 0)
	MustPublish(t, s, "d", Image(5, 3))
	if err := os.Rename(aside, at); err != nil {
		t.Fatal(err)
	}
}

// vouchersLie: whatever happens to the file that vouches for the names, a name
// is given once, and a free one is given.
func vouchersLie(t *testing.T, h Harness) {
	s := h.open(t)
	a := MustPublish(t, s, "a", Image(1, 3)).ID
	b := MustPublish(t, s, "b", Image(2, 3)).ID
	path := s.Path("cache", "names.voucher")
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	states := [][]byte{now, {}, now[:len(now)-1], append(bytes.Clone(now), 0), make([]byte, len(now)), bytes.Repeat([]byte{0xff}, len(now))}
	for i := range len(now) * 8 {
		flipped := bytes.Clone(now)
		flipped[i/8] ^= 1 << (i % 8)
		states = append(states, flipped)
	}
	for i, content := range states {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		wants(t, "a name twice, foreseen", s.NameFree(t.Context(), "b"), failure.Conflict)
		taken := s.SetMeta(t.Context(), a, func(m *store.Meta) error { m.Name = "b"; return nil })
		wants(t, "a name twice", taken, failure.Conflict)
		if err := s.NameFree(t.Context(), "free"); err != nil {
			t.Errorf("state %d: %v", i, err)
		}
		if got, err := s.Resolve(t.Context(), "b"); err != nil || got != b {
			t.Errorf("state %d: b is %s, %v, want %s", i, got, err, b)
		}
	}
}

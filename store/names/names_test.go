package names

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/layout"
)

const (
	someID  layout.ID = "0123456789abcdef0123456789abcdef"
	otherID layout.ID = "fedcba9876543210fedcba9876543210"
)

// called is what snapshots are called, without snapshots.
type called map[layout.ID]string

func (c called) of(id layout.ID) (string, error) {
	name, ok := c[id]
	if !ok {
		return "", failure.New(failure.NotFound, "no snapshot %s", id)
	}
	return name, nil
}

func open(t testing.TB, c called) *Names {
	t.Helper()
	at, err := layout.Open(t.Context(), filepath.Join(t.TempDir(), "root"), true)
	if err != nil {
		t.Fatal(err)
	}
	for id := range c {
		if err := os.Mkdir(at.Path("snapshots", string(id)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Of(at, c.of)
}

// TestEveryNameIsAFileName: what may be a name can be a link, none is the mark or
// leads out of the folder, and two names are two links.
func TestEveryNameIsAFileName(t *testing.T) {
	all := called{someID: ""}
	n := open(t, all)
	legal := []string{"a", "A", "0", "a.", "a..b", "a-", "a_", strings.Repeat("n", 128), strings.Repeat("a.", 128/2), "con", "a.json"}
	for _, name := range legal {
		old := all[someID]
		if err := n.Take(someID, name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[someID] = name
		n.Drop(old)
		if got, err := n.Resolve(t.Context(), name); err != nil || got != someID {
			t.Errorf("%s is %s, %v", name, got, err)
		}
		if links, err := n.linkedAll(); err != nil || !slices.Equal(links, []string{name}) {
			t.Errorf("links of %v, %v", links, err)
		}
	}
	for _, name := range []string{"", ".", "..", wholeMark, "../x", "a/b", "/a", "a\x00", strings.Repeat("n", 128+1), string(someID)} {
		if id, err := n.Holder(name); err != nil || id != "" {
			t.Errorf("%q is the name of %q, %v", name, id, err)
		}
		if err := n.Take(otherID, name); (err == nil) != (name == "") {
			t.Errorf("%q was taken: %v", name, err)
		}
	}
}

// TestALinkOfOneThatCannotSayStays: it is what its name is found by again.
func TestALinkOfOneThatCannotSayStays(t *testing.T) {
	n := open(t, called{someID: "web"})
	if err := n.Take(someID, "web"); err != nil {
		t.Fatal(err)
	}
	lost := Of(n.at, func(layout.ID) (string, error) { return "", failure.New(failure.Damaged, "lost") })
	if stale, err := lost.Stale(nil); err != nil || len(stale) > 0 || lost.Drop("web") {
		t.Errorf("stale %v, %v", stale, err)
	}
	if name := lost.ByLink(someID, "other"); name != "web" {
		t.Errorf("by its link it is %q", name)
	}
	if id, err := lost.Holder("web"); err != nil || id != "" {
		t.Errorf("web is %q, %v", id, err)
	}
	if err := n.Take(otherID, "web"); !errors.Is(err, failure.Conflict) {
		t.Errorf("taken: %v", err)
	}
}

// FuzzNameLink: wherever the link of a name leads, it finds a snapshot of that name
// or none, and whoever wants a name that nobody has gets it.
func FuzzNameLink(f *testing.F) {
	n := open(f, called{someID: "web"})
	for _, to := range []string{".", "/", "../../etc", "../snapshots/" + string(otherID), "../snapshots/" + string(someID), "../snapshots/" + string(someID) + "/", "..\n"} {
		f.Add(to)
	}
	f.Fuzz(func(t *testing.T, to string) {
		for name, want := range map[string]layout.ID{"web": someID, "other": otherID} {
			path := n.at.Path(layout.Names, name)
			_ = os.Remove(path)
			if os.Symlink(to, path) != nil {
				t.Skip("no link can lead there")
			}
			if id, err := n.Holder(name); err != nil || id != "" && (id != someID || name != "web") {
				t.Errorf("%s is %s, %v", name, id, err)
			}
			err := n.Take(otherID, name)
			if taken := errors.Is(err, failure.Conflict); taken != (name == "web") {
				t.Errorf("%s is taken: %v", name, err)
			}
			if id, err := n.linked(name); err != nil || id != want {
				t.Errorf("afterwards %s leads to %s, %v", name, id, err)
			}
		}
	})
}

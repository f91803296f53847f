package capture

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// parentLab is a store of snapshots without RAM; each is an hour younger than the
// one before.
type parentLab struct {
	t    *testing.T
	root string
	st   *store.Store
	made int
}

func newParentLab(t *testing.T) *parentLab {
	l := &parentLab{t: t, root: filepath.Join(t.TempDir(), "root")}
	l.st = l.open()
	return l
}

func (l *parentLab) open(keys ...*keyring.Key) *store.Store {
	l.t.Helper()
	st, err := store.Open(l.t.Context(), l.root, store.Options{Create: true, Veto: sleep.Veto, Keys: keyring.FromKeys(keys...)})
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

// add publishes a snapshot that says it is of a VM; origin is nil for one that was
// captured here.
func (l *parentLab) add(st *store.Store, name string, of store.VMRef, origin *store.Origin) store.ID {
	l.t.Helper()
	ctx := l.t.Context()
	lease, err := st.Lease(ctx, "test")
	if err != nil {
		l.t.Fatal(err)
	}
	defer lease.Release()
	in, err := st.Ingest(ctx, lease)
	if err != nil {
		l.t.Fatal(err)
	}
	config, err := in.Put(ctx, store.MediaTypeCHConfig, []byte(`{"of":"`+name+`"}`))
	if err != nil {
		l.t.Fatal(err)
	}
	state, err := in.Put(ctx, store.MediaTypeCHState, []byte(`{"state":"`+name+`"}`))
	if err != nil {
		l.t.Fatal(err)
	}
	l.made++
	sp := store.Spec{
		VM: of, Record: []byte("{}"), CHConfig: config.Digest, CHState: state.Digest,
		Created: time.Date(2026, 1, 1, l.made, 0, 0, 0, time.UTC),
	}
	if origin != nil {
		sp.Capture.Mode = "import"
	}
	sn, err := in.Commit(ctx, sp, store.Meta{Name: name, Origin: origin})
	if err != nil {
		l.t.Fatal(err)
	}
	return sn.ID
}

func (l *parentLab) quarantine(name string) {
	l.t.Helper()
	id, err := l.st.Resolve(l.t.Context(), name)
	if err == nil {
		err = l.st.SetMeta(l.t.Context(), id, func(m *store.Meta) error {
			m.Quarantine = &store.Quarantine{Since: time.Now(), Objects: []string{"blob"}}
			return nil
		})
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

var (
	web      = store.VMRef{ID: "0123456789abcdef0123456789abcdef", Name: "web"}
	other    = store.VMRef{ID: "fedcba9876543210fedcba9876543210", Name: "other"}
	folderVM = store.VMRef{Name: "web"} // as an import names it
	imported = &store.Origin{Imported: "/somewhere/web"}
)

// TestTheParentIsTheNewestOfItsKin that can be read; what another host says of
// itself is believed where it was asked for or is what the VM was made of.
func TestTheParentIsTheNewestOfItsKin(t *testing.T) {
	l := newParentLab(t)
	l.add(l.st, "web-1", web, nil)
	l.add(l.st, "web-2", web, nil)
	l.add(l.st, "other-1", other, nil)
	l.add(l.st, "folder-1", folderVM, imported)
	claims := l.add(l.st, "claims", web, imported) // the newest that says it is of web
	l.add(l.st, "bad", other, nil)
	l.quarantine("bad")
	base := l.add(l.st, "base", store.VMRef{ID: "00000000000000000000000000000001", Name: "base"}, imported)
	for name, c := range map[string]struct {
		asked string
		of    kin
		want  string // name, "" for none
		class error
	}{
		"auto takes the newest of the VM, not of what claims to be": {"auto", kin{vm: web.ID}, "web-2", nil},
		"nothing said is auto":             {"", kin{vm: web.ID}, "web-2", nil},
		"none takes none":                  {"none", kin{vm: web.ID}, "", nil},
		"nobody of its kin":                {"auto", kin{vm: "11111111111111111111111111111111"}, "", nil},
		"one that is quarantined is left":  {"auto", kin{vm: other.ID}, "other-1", nil},
		"what a clone was made of":         {"auto", kin{vm: "11111111111111111111111111111111", clonedOf: base, ramOf: true}, "base", nil},
		"not the RAM of another boot":      {"auto", kin{vm: "11111111111111111111111111111111", clonedOf: base}, "", nil},
		"what went away is left":           {"auto", kin{vm: web.ID, clonedOf: "22222222222222222222222222222222"}, "web-2", nil},
		"its own before what it is of":     {"auto", kin{vm: web.ID, clonedOf: claims, ramOf: true}, "claims", nil},
		"a folder's by its name":           {"auto", kin{name: "web"}, "folder-1", nil},
		"another folder's":                 {"auto", kin{name: "db"}, "", nil},
		"asked for by name":                {"claims", kin{vm: web.ID}, "claims", nil},
		"asked for, and not there":         {"nobody", kin{vm: web.ID}, "", failure.NotFound},
		"asked for, and quarantined":       {"bad", kin{vm: web.ID}, "", failure.Damaged},
		"a word that is no name of a kind": {"../x", kin{vm: web.ID}, "", failure.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			sn, err := findParent(t.Context(), l.st, c.asked, c.of, func(text string) { t.Errorf("told: %s", text) })
			got := ""
			if sn != nil {
				got = sn.Meta.Name
			}
			if got != c.want || !errors.Is(err, c.class) {
				t.Errorf("found %q, %v; want %q, %v", got, err, c.want, c.class)
			}
		})
	}
}

// TestAParentUnderAKeyThatIsNotAtHand is passed over and told once, however many
// there are; asked for, it is refused.
func TestAParentUnderAKeyThatIsNotAtHand(t *testing.T) {
	l := newParentLab(t)
	l.add(l.st, "plain", web, nil)
	sealing := l.open(keyring.FromSecret([32]byte{1}))
	l.add(sealing, "sealed-1", web, nil)
	l.add(sealing, "sealed-2", web, nil)
	var told []string
	find := func(parent string) (*store.Snapshot, error) {
		told = nil
		return findParent(t.Context(), l.open(), parent, kin{vm: web.ID}, func(text string) { told = append(told, text) })
	}
	if sn, err := find(autoParent); err != nil || sn == nil || sn.Meta.Name != "plain" || len(told) != 1 || !strings.Contains(told[0], "no page of an older snapshot is reused") {
		t.Errorf("found %v, %v, told %q", sn, err, told)
	}
	if sn, err := find("sealed-1"); !keyring.IsMissing(err) || len(told) != 0 {
		t.Errorf("asked for: %v, %v, told %q", sn, err, told)
	}
	if sn, err := findParent(t.Context(), sealing, autoParent, kin{vm: web.ID}, nil); err != nil || sn.Meta.Name != "sealed-2" {
		t.Errorf("with the key: %v, %v", sn, err)
	}
}

// TestAParentThatWentAwayOnlyCostsSpeed, unless it was asked for; one that is there
// is held with all that it names.
func TestAParentThatWentAwayOnlyCostsSpeed(t *testing.T) {
	ctx := t.Context()
	l := newParentLab(t)
	lease, err := l.st.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if sn, err := holdParent(ctx, l.st, lease, nil, true); sn != nil || err != nil {
		t.Errorf("none: %v, %v", sn, err)
	}
	gone := &store.Snapshot{ID: "22222222222222222222222222222222"}
	if sn, err := holdParent(ctx, l.st, lease, gone, false); sn != nil || err != nil {
		t.Errorf("gone: %v, %v", sn, err)
	}
	if _, err := holdParent(ctx, l.st, lease, gone, true); !errors.Is(err, failure.NotFound) {
		t.Errorf("gone, and asked for: %v", err)
	}
	id := l.add(l.st, "web-1", web, nil)
	there, err := l.st.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if sn, err := holdParent(ctx, l.st, lease, there, false); err != nil || sn.ID != id {
		t.Errorf("there: %v, %v", sn, err)
	}
	if err := l.st.Remove(ctx, id, store.RemoveOptions{Force: true}); !errors.Is(err, failure.Conflict) {
		t.Errorf("it is removed while it is held: %v", err)
	}
}

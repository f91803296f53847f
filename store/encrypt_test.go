package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

func testKey(n byte) *keyring.Key { return keyring.FromSecret([32]byte{n}) }

// openWith opens a store with keys, the first of which seals.
func openWith(t testing.TB, root string, keys *keyring.Ring) *Store {
	t.Helper()
	s, err := Open(t.Context(), root, Options{Create: true, Veto: free, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readRAM(t testing.TB, s *Store, id ID) ([]byte, error) {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	b := make([]byte, im.Bytes())
	_, err = im.ReadAt(b, 0)
	return b, err
}

func reads(t testing.TB, s *Store, id ID, ram []byte) {
	t.Helper()
	if got, err := readRAM(t, s, id); err != nil || !bytes.Equal(got, ram) {
		t.Errorf("RAM of %s read back differs (%v)", id, err)
	}
}

// TestNothingOfTheGuestIsStoredInTheClear: no file of the store holds bytes of
// a page, of the state or of the VMM's config.
func TestNothingOfTheGuestIsStoredInTheClear(t *testing.T) {
	s := openWith(t, filepath.Join(t.TempDir(), "root"), keyring.FromKeys(testKey(1)))
	sn := mustPublish(t, s, "first", image(1, 30))
	for name, want := range map[string]string{MediaTypeCHConfig: "{}", MediaTypeCHState: `{"state":1}`} {
		if got, err := contents.Of(s, sn).Document(t.Context(), name); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v)", name, got, err)
		}
	}
	h := pack.Sum(image(1, 1))
	err := filepath.WalkDir(s.Root(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() { // a link is a name and an id
			return err
		}
		b, err := os.ReadFile(path)
		for _, secret := range []string{"page 1 of 1", `"state":1}`, string(h[:8]), "COCOPMAP\x01"} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWithoutTheKeyEverythingButReadingWorks: a lost key is a clear refusal, no
// damage, and no hindrance to listing and removing.
func TestWithoutTheKeyEverythingButReadingWorks(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := openWith(t, root, keyring.FromKeys(testKey(1)))
	ram := image(1, 30)
	sn := mustPublish(t, s, "first", ram)
	reads(t, s, sn.ID, ram)
	for name, keys := range map[string]*keyring.Ring{"no key": nil, "wrong key": keyring.FromKeys(testKey(2))} {
		s := openWith(t, root, keys)
		if _, err := readRAM(t, s, sn.ID); !keyring.IsMissing(err) || !errors.Is(err, failure.Incompatible) {
			t.Errorf("%s: RAM: %v", name, err)
		}
		if _, err := contents.Of(s, sn).Document(t.Context(), MediaTypeCHState); !keyring.IsMissing(err) {
			t.Errorf("%s: state: %v", name, err)
		}
		if err := contents.Of(s, sn).Unlock(t.Context()); !keyring.IsMissing(err) || failure.HintOf(err) == "" {
			t.Errorf("%s: unlock: %v", name, err)
		}
		all, err := s.Index().Summaries(t.Context())
		if err != nil || len(all) != 1 || all[0].State != "ready" || all[0].Key != testKey(1).ID().String() {
			t.Errorf("%s: list: %+v, %v", name, all, err)
		}
	}
	spoil(t, s, packOf(t, sn), flip(60))
	if err := openWith(t, root, nil).Remove(t.Context(), sn.ID, RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// TestAForgottenKeyIsNoReasonToStoreInTheClear: only what is said is done.
func TestAForgottenKeyIsNoReasonToStoreInTheClear(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	plain := mustPublish(t, openWith(t, root, nil), "plain", image(1, 9))
	sealed := mustPublish(t, openWith(t, root, keyring.FromKeys(testKey(1))), "sealed", image(2, 9))
	forgot := openWith(t, root, nil)
	l := leaseTest(t, forgot)
	if _, err := publish(t.Context(), forgot, l, "oops", image(3, 9)); !errors.Is(err, failure.Incompatible) || failure.HintOf(err) == "" {
		t.Errorf("published in the clear: %v", err)
	}
	in, err := forgot.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Put(t.Context(), MediaTypeCHState, []byte(`{"state":2}`)); !errors.Is(err, failure.Incompatible) {
		t.Errorf("a document was put in the clear: %v", err)
	}
	clear := mustPublish(t, openWith(t, root, keyring.NewRing("none")), "asked-for", image(4, 9))
	if clear.Spec.Key != "" || clear.Spec.Version != 1 {
		t.Errorf("spec of a plain snapshot: version %d, key %q", clear.Spec.Version, clear.Spec.Key)
	}
	s := openWith(t, root, keyring.FromKeys(testKey(1)))
	reads(t, s, plain.ID, image(1, 9))
	reads(t, s, sealed.ID, image(2, 9))
	reads(t, s, clear.ID, image(4, 9))
	if found := damages(t, s); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestANewKeySealsAndTheOldOneOpens.
func TestANewKeySealsAndTheOldOneOpens(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	old := mustPublish(t, openWith(t, root, keyring.FromKeys(testKey(1))), "old", image(1, 9))
	s := openWith(t, root, keyring.FromKeys(testKey(2), testKey(1)))
	renewed := mustPublish(t, s, "new", image(1, 9))
	if old.Spec.Key == renewed.Spec.Key || renewed.Spec.Key != testKey(2).ID().String() {
		t.Errorf("keys %s and %s", old.Spec.Key, renewed.Spec.Key)
	}
	reads(t, s, old.ID, image(1, 9))
	reads(t, s, renewed.ID, image(1, 9))
}

// forge publishes what somebody who can write to the store, but has no key,
// would make of a snapshot.
func forge(t *testing.T, s *Store, sn *Snapshot, change func(*Spec)) *Snapshot {
	t.Helper()
	l := leaseTest(t, s)
	in, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	sp := sn.Spec
	sp.ID = in.ID()
	change(&sp)
	b, err := json.Marshal(sp)
	if err != nil {
		t.Fatal(err)
	}
	config, err := in.Put(t.Context(), MediaTypeConfig, b)
	if err != nil {
		t.Fatal(err)
	}
	m := sn.Manifest
	config.Annotations = m.Config.Annotations
	m.Config = config
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := document.DecodeManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	foreign.Spec = sp
	foreign.ID = sp.ID
	got, err := in.Adopt(t.Context(), foreign, manifest, Meta{Origin: &Origin{Imported: "there"}})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestWhatOnlyTheKeyTellsIsUnknownWithout: the index tells it neither, whatever it
// says of the time when the key was there.
func TestWhatOnlyTheKeyTellsIsUnknownWithout(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := openWith(t, root, keyring.FromKeys(testKey(1)))
	age(t, mustPublish(t, s, "here", make([]byte, 1<<20)))
	said := func(s *Store) string {
		t.Helper()
		all, err := s.Index().Summaries(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		text, err := json.Marshal(all[0].Memory)
		if err != nil {
			t.Fatal(err)
		}
		if e := all[0].Encoded(); e != "" && !bytes.Contains([]byte(e), text) {
			t.Errorf("%s is said, and %s is encoded", text, e)
		}
		return string(text)
	}
	const known = `{"bytes":1048576,"zeroBytes":1048576}`
	for range 2 {
		if got := said(s); got != known {
			t.Errorf("with its key: %s", got)
		}
	}
	without := openWith(t, root, nil)
	warm := said(without)
	if err := os.Remove(s.Path("refs.db")); err != nil {
		t.Fatal(err)
	}
	if cold := said(without); warm != `{"bytes":1048576,"zeroBytes":null}` || cold != warm {
		t.Errorf("without its key: %s by the index, %s without", warm, cold)
	}
	if got := said(s); got != known {
		t.Errorf("with its key again: %s", got)
	}
}

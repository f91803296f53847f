package repair_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/repair"
)

func testKey(n byte) *keyring.Key { return keyring.FromSecret([32]byte{n}) }

// openWith opens a store with keys, the first of which seals.
func openWith(t testing.TB, root string, keys *keyring.Ring) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), root, store.Options{Create: true, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readRAM(t testing.TB, s *store.Store, id store.ID) error {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		return err
	}
	defer im.Close()
	_, err = im.ReadAt(make([]byte, im.Bytes()), 0)
	return err
}

// TestWithoutTheKeyBytesAreVerified: a lost key is no damage, and hides none.
func TestWithoutTheKeyBytesAreVerified(t *testing.T) {
	root := folder(t)
	sn := storetest.MustPublish(t, openWith(t, root, keyring.FromKeys(testKey(1))), "first", storetest.Image(1, 30))
	for name, keys := range map[string]*keyring.Ring{"no key": nil, "wrong key": keyring.FromKeys(testKey(2))} {
		rep, err := repair.Verify(t.Context(), openWith(t, root, keys), nil, repair.VerifyOptions{ReadData: true, Quarantine: true})
		if err != nil || len(rep.Damaged) > 0 || len(rep.Unopened) != 1 {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
	}
	s := openWith(t, root, nil)
	storetest.Harm(t, s.BlobPath(storetest.PackOf(t, sn)), flip(60))
	if rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true}); err != nil || len(rep.Damaged) != 1 {
		t.Errorf("of a damaged pack: %+v, %v", rep, err)
	}
}

// forge publishes what somebody who can write to the store, but has no key,
// would make of a snapshot.
func forge(t *testing.T, s *store.Store, sn *store.Snapshot, change func(*store.Spec)) *store.Snapshot {
	t.Helper()
	l := storetest.Lease(t, s)
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
	config, err := in.Put(t.Context(), store.MediaTypeConfig, b)
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
	got, err := in.Adopt(t.Context(), foreign, manifest, store.Meta{Origin: &store.Origin{Imported: "there"}})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhoHasNoKeyCannotMakeASnapshotOfOthers(t *testing.T) {
	s := openWith(t, filepath.Join(t.TempDir(), "root"), keyring.FromKeys(testKey(1), testKey(2)))
	sn := storetest.MustPublish(t, s, "first", storetest.Image(1, 9))
	if err := contents.Of(s, sn).Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	changed := forge(t, s, sn, func(sp *store.Spec) { sp.CPUs = 64 })
	if err := contents.Of(s, changed).Unlock(t.Context()); !errors.Is(err, failure.Damaged) {
		t.Errorf("a config that nobody authenticated: %v", err)
	}
	otherKey := forge(t, s, sn, func(sp *store.Spec) { sp.Key = testKey(2).ID().String() })
	if err := contents.Of(s, otherKey).Unlock(t.Context()); !errors.Is(err, failure.Damaged) {
		t.Errorf("a config said to be of another key: %v", err)
	}
	const plainVersion = 1 // of a spec
	plain := forge(t, s, sn, func(sp *store.Spec) { sp.Version, sp.Key = plainVersion, "" })
	for _, id := range []store.ID{plain.ID, otherKey.ID} {
		if err := readRAM(t, s, id); !errors.Is(err, failure.Damaged) {
			t.Errorf("RAM of a snapshot of others' blobs: %v", err)
		}
	}
	if _, err := contents.Of(s, plain).Document(t.Context(), store.MediaTypeCHState); !errors.Is(err, failure.Damaged) {
		t.Errorf("state of a plain snapshot of an encrypted blob: %v", err)
	}
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{})
	if err != nil || len(rep.Damaged) != 3 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}

// TestAnEncryptedPackIsRebuilt with its key, from copies that are encrypted too
// and from plain ones, and leaves no plain page on disk meanwhile.
func TestAnEncryptedPackIsRebuilt(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	ram := storetest.Image(1, 700)
	keys := keyring.FromKeys(testKey(1))
	for name, other := range map[string]*keyring.Ring{"encrypted": keys, "plain": keyring.NewRing("none")} {
		s := openWith(t, root+name, keys)
		sn := storetest.MustPublish(t, s, "first", ram)
		storetest.MustPublish(t, openWith(t, root+name, other), "other", append(storetest.Image(2, 1), ram...))
		d := storetest.PackOf(t, sn)
		whole, err := os.ReadFile(s.BlobPath(d))
		if err != nil {
			t.Fatal(err)
		}
		storetest.Harm(t, s.BlobPath(d), func(b []byte) []byte { return flip(300)(flip(100)(b)) })
		for _, keyed := range []bool{false, true} {
			if !keyed {
				s = openWith(t, root+name, nil)
			} else {
				s = openWith(t, root+name, keys)
			}
			l := storetest.Lease(t, s)
			in, err := s.Ingest(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			how, err := repair.Rebuild(t.Context(), s, in, d, []store.ID{sn.ID}, repair.Options{})
			if keyed != (err == nil) || !keyed && !keyring.IsMissing(err) {
				t.Errorf("%s: with the key %v: %q, %v", name, keyed, how, err)
			}
			if err := l.Release(); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(s.BlobPath(d)); err != nil || digest.FromBytes(got) != d || !bytes.Equal(got, whole) {
			t.Errorf("%s: the pack is not what it was (%v)", name, err)
		}
	}
}

package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Harm changes one blob of a snapshot and gives a function that undoes it.
func Harm(t testing.TB, path string, change func([]byte) []byte) (undo func()) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o400)); err != nil {
			t.Fatal(err)
		}
	}
	write(change(bytes.Clone(whole)))
	return func() { write(whole) }
}

// damaged fails unless verify names one object and every snapshot of ids.
func damaged(t testing.TB, what string, s *store.Store, o repair.VerifyOptions, ids ...store.ID) {
	t.Helper()
	rep, err := repair.Verify(t.Context(), s, nil, o)
	if err != nil {
		t.Errorf("%s: verify: %v", what, err)
		return
	}
	affected := map[store.ID]bool{}
	for _, d := range rep.Damaged {
		if d.Want == d.Got {
			t.Errorf("%s: %s wants and got %q", what, d.Object, d.Got)
		}
		for _, id := range d.Affects {
			affected[id] = true
		}
	}
	for _, id := range ids {
		if !affected[id] {
			t.Errorf("%s: verify does not name snapshot %s: %+v", what, id, rep.Damaged)
		}
	}
}

// neverWrong fails when a reading gives bytes that were not published; damage
// is the only other answer.
func neverWrong(t testing.TB, what string, s *store.Store, id store.ID, ram []byte) {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err != nil {
		wants(t, what, err, failure.Damaged)
		return
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		wants(t, what, err, failure.Damaged)
		return
	}
	defer im.Close()
	got := make([]byte, len(ram))
	if n, err := im.ReadAt(got, 0); err != nil {
		wants(t, what, err, failure.Damaged)
	} else if !bytes.Equal(got[:n], ram) {
		t.Errorf("%s: wrong bytes were read", what)
	}
}

// checkBitFlip: one flipped bit in any blob is found by a full reading and
// named with every snapshot that it affects.
func checkBitFlip(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 30)
	one, two := MustPublish(t, s, "one", ram), MustPublish(t, s, "two", ram)
	for _, layer := range one.Manifest.Layers {
		for _, at := range []int64{0, layer.Size / 2, layer.Size - 1} {
			what := fmt.Sprintf("bit of byte %d of a %s", at, layer.MediaType)
			undo := Harm(t, s.BlobPath(layer.Digest), func(b []byte) []byte { b[at] ^= 0x10; return b })
			damaged(t, what, s, repair.VerifyOptions{ReadData: true}, holders(layer.Digest, one, two)...)
			neverWrong(t, what, s, one.ID, ram)
			undo()
		}
	}
	intact(t, s, 2)
}

// holders are the snapshots that name a blob.
func holders(d digest.Digest, all ...*store.Snapshot) (ids []store.ID) {
	for _, sn := range all {
		if slices.Contains(document.Edges(sn), d) {
			ids = append(ids, sn.ID)
		}
	}
	return ids
}

// checkTruncated: a blob that is too short or too long is found without reading
// data.
func checkTruncated(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 30)
	sn := MustPublish(t, s, "one", ram)
	for _, layer := range append(sn.Manifest.Layers, sn.Manifest.Config) {
		for name, change := range map[string]func([]byte) []byte{
			"empty": func([]byte) []byte { return nil },
			"half":  func(b []byte) []byte { return b[:len(b)/2] },
			"short": func(b []byte) []byte { return b[:len(b)-1] },
			"long":  func(b []byte) []byte { return append(b, 0) },
		} {
			what := name + " " + layer.MediaType
			undo := Harm(t, s.BlobPath(layer.Digest), change)
			damaged(t, what, s, repair.VerifyOptions{}, sn.ID)
			neverWrong(t, what, s, sn.ID, ram)
			undo()
		}
	}
	intact(t, s, 1)
}

// checkMissing: a blob that is gone is damage of the snapshots that name it;
// the collector then sweeps nothing.
func checkMissing(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 30)
	sn := MustPublish(t, s, "one", ram)
	orphan := MustPublish(t, s, "orphan", Image(2, 9))
	mustRemove(t, s, orphan.ID)
	before := len(blobs(t, s))
	for _, layer := range append(sn.Manifest.Layers, sn.Manifest.Config) {
		path := s.BlobPath(layer.Digest)
		if err := os.Rename(path, s.Path("aside")); err != nil {
			t.Fatal(err)
		}
		damaged(t, "missing "+layer.MediaType, s, repair.VerifyOptions{}, sn.ID)
		neverWrong(t, "missing "+layer.MediaType, s, sn.ID, ram)
		wants(t, "collect with a dangling root", h.Collect(t.Context(), s), failure.Damaged)
		if err := os.Rename(s.Path("aside"), path); err != nil {
			t.Fatal(err)
		}
		if got := len(blobs(t, s)); got != before {
			t.Errorf("%d blobs after a refused collection, want %d", got, before)
		}
	}
	h.collect(t, s)
	intact(t, s, 1)
}

// rebuildIndex: what is derived may be lost, torn or foreign: listings and
// names stay the same.
func rebuildIndex(t *testing.T, h Harness) {
	s := h.open(t)
	a, b := MustPublish(t, s, "a", Image(1, 9)), MustPublish(t, s, "b", Image(1, 9))
	list := func() map[store.ID]string {
		all, err := s.Index().Summaries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		names := map[store.ID]string{}
		for _, x := range all {
			names[x.ID] = fmt.Sprint(x.Name, x.Size, x.State)
		}
		return names
	}
	for _, sn := range []*store.Snapshot{a, b} { // what was changed just now is not remembered
		for known := false; !known; _, known = s.Index().Known(sn.ID) {
			list()
		}
	}
	want := list()
	derived := s.Path("refs.db")
	known, err := os.ReadFile(derived)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"lost": nil, "torn": known[:len(known)/2], "noise": []byte("\x00\xff\n[{"),
		"foreign": []byte("0123456789abcdef0123456789abcdef 1 2 \"a\" [] {}\n"), "flipped": append([]byte{known[0] ^ 1}, known[1:]...),
	} {
		if err := errors.Join(ignore(os.Remove(derived)), os.WriteFile(derived, content, 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := list(); len(got) != 2 || got[a.ID] != want[a.ID] || got[b.ID] != want[b.ID] {
			t.Errorf("%s: listed %v, want %v", name, got, want)
		}
		if id, err := s.Resolve(t.Context(), "a"); err != nil || id != a.ID {
			t.Errorf("%s: a is %s, %v", name, id, err)
		}
	}
}

// ignore forgives that a file is not there.
func ignore(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// readOnlyStore: a store that cannot be written can be read; writing says so
// and changes nothing.
func readOnlyStore(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 30)
	sn := MustPublish(t, s, "one", ram)
	view := filepath.Join(t.TempDir(), "view")
	if err := os.Mkdir(view, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(s.Root(), view, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(view, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", view, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro, err := store.Open(t.Context(), view, store.Options{Veto: sleep.Veto, Keys: h.Keys})
	if err != nil {
		t.Fatal(err)
	}
	ReadsBack(t, ro, sn.ID, ram)
	intact(t, ro, 1)
	if id, err := ro.Resolve(t.Context(), "one"); err != nil || id != sn.ID {
		t.Errorf("resolve: %s, %v", id, err)
	}
	_, err = ro.Lease(t.Context(), "writer")
	wants(t, "lease", err, unix.EROFS)
	wants(t, "rm", ro.Remove(t.Context(), sn.ID, store.RemoveOptions{}), unix.EROFS)
	wants(t, "rename", ro.SetMeta(t.Context(), sn.ID, func(m *store.Meta) error { m.Name = "x"; return nil }), unix.EROFS)
	wants(t, "collect", h.Collect(t.Context(), ro), unix.EROFS)
	ReadsBack(t, s, sn.ID, ram)
}

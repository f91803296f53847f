package storetest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// basic: what is published reads back, has its name, and leaves no residue.
func basic(t *testing.T, h Harness) {
	s, ram := h.open(t), Image(1, 30)
	sn := MustPublish(t, s, "first", ram)
	ReadsBack(t, s, sn.ID, ram)
	if id, err := s.Resolve(t.Context(), "first"); err != nil || id != sn.ID {
		t.Errorf("resolve: %s, %v", id, err)
	}
	intact(t, s, 1)
	residue(t, s)
	mustRemove(t, s, sn.ID)
	_, err := s.Get(t.Context(), sn.ID)
	wants(t, "get after rm", err, failure.NotFound)
	h.collect(t, s)
	if left := blobs(t, s); len(left) > 0 {
		t.Errorf("blobs left of a removed snapshot: %v", left)
	}
}

// commitExists: equal contents are stored once; a name or an ingest is
// published once.
func commitExists(t *testing.T, h Harness) {
	s := h.open(t)
	MustPublish(t, s, "a", Image(1, 9))
	before := len(blobs(t, s))
	MustPublish(t, s, "b", Image(1, 9))
	want := before + 1 // its config names its id
	if h.Keys != nil {
		want += 2 // an encrypted pack has a salt of its own, and the map names it
	}
	if got := len(blobs(t, s)); got != want {
		t.Errorf("%d blobs after an equal snapshot, want %d", got, want)
	}
	l := Lease(t, s)
	_, err := Publish(t.Context(), s, l, store.Meta{Name: "a"}, Image(2, 9))
	wants(t, "a name that is taken", err, failure.Conflict)

	in := begin(t, s, l)
	sn, err := fill(t.Context(), in, store.Meta{Name: "c"}, Image(3, 9), func(*store.Spec) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), sn.Spec, store.Meta{}); err == nil {
		t.Error("one ingest was published twice")
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	intact(t, s, 3)
	residue(t, s)
}

// commitWrongDigest: a snapshot that names what its ingest did not store is not
// published, nor is a blob whose size is not what was said.
func commitWrongDigest(t *testing.T, h Harness) {
	s := h.open(t)
	absent := digest.FromString("nobody stored this")
	for what, spoil := range map[string]func(*store.Spec){
		"the VMM's config": func(sp *store.Spec) { sp.CHConfig = absent },
		"the VMM's state":  func(sp *store.Spec) { sp.CHState = absent },
		"a page map":       func(sp *store.Spec) { sp.Memory = []store.MemoryRange{{Bytes: 4096, Map: absent}} },
		"a disk":           func(sp *store.Spec) { sp.Disks = []store.Disk{{Bytes: 4096, Map: absent}} },
		"an image":         func(sp *store.Spec) { sp.Images = []store.ImageRef{{Digest: absent}} },
	} {
		l := Lease(t, s)
		in := begin(t, s, l)
		sp, err := spec(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		spoil(&sp)
		_, err = in.Commit(t.Context(), sp, store.Meta{})
		wants(t, what+" that is not there", err, failure.Damaged)
		if err := errors.Join(in.Abort(), l.Release()); err != nil {
			t.Error(err)
		}
	}
	l := Lease(t, s)
	f, err := begin(t, s, l).CreatePack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("five!")); err != nil {
		t.Fatal(err)
	}
	wants(t, "a pack of another size", f.Commit(t.Context(), digest.FromString("five!"), 6), failure.Damaged)
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	h.collect(t, s)
	intact(t, s, 0)
	if left := blobs(t, s); len(left) > 0 {
		t.Errorf("blobs left: %v", left)
	}
}

// abortLeavesNothing: an abort at any point leaves the store as it was.
func abortLeavesNothing(t *testing.T, h Harness) {
	s := h.open(t)
	MustPublish(t, s, "kept", Image(1, 9))
	before := blobs(t, s)
	for _, stage := range []string{"begun", "written", "mapped", "documents"} {
		l := Lease(t, s)
		in := begin(t, s, l)
		switch stage {
		case "written":
			if _, err := in.Pages(t.Context()).Image(1<<20, nil).WriteAt(Image(2, 9), 0); err != nil {
				t.Fatal(err)
			}
		case "mapped", "documents":
			m, err := writeMemory(t.Context(), in, 9*4096, strings.NewReader(string(Image(3, 9))))
			if err != nil {
				t.Fatal(err)
			}
			if stage == "documents" {
				if _, err := spec(t.Context(), in, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(in.Abort(), l.Release()); err != nil {
			t.Errorf("%s: %v", stage, err)
		}
		residue(t, s)
		h.collect(t, s)
		if d := cmp.Diff(before, blobs(t, s)); d != "" {
			t.Errorf("%s: blobs (-before +after):\n%s", stage, d)
		}
	}
	intact(t, s, 1)
}

// closeTwice: ending something a second time does no harm.
func closeTwice(t *testing.T, h Harness) {
	s := h.open(t)
	sn := MustPublish(t, s, "kept", Image(1, 9))
	l := Lease(t, s)
	in := begin(t, s, l)
	for range 2 {
		if err := in.Abort(); err != nil {
			t.Errorf("abort: %v", err)
		}
	}
	for range 2 {
		if err := l.Release(); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	mustRemove(t, s, sn.ID)
	wants(t, "the second rm", s.Remove(t.Context(), sn.ID, store.RemoveOptions{}), failure.NotFound)
	h.collect(t, s)
	h.collect(t, s)
	intact(t, s, 0)
	residue(t, s)
}

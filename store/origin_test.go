package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/document"
)

// rewriteMeta is what another program may have left.
func rewriteMeta(t *testing.T, s *Store, id ID, change func(*Meta)) {
	t.Helper()
	dir := s.Path("snapshots", string(id))
	m, err := readMeta(dir)
	if err != nil {
		t.Fatal(err)
	}
	change(&m)
	b, err := m.Encode()
	if err == nil {
		err = document.MetaFile.Write(filepath.Join(dir, "meta.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *Store, id ID) *Snapshot {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// TestTheStoreItselfSaysWhereASnapshotComesFrom, once, whatever the snapshot says.
func TestTheStoreItselfSaysWhereASnapshotComesFrom(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "first", image(1, 9))
	if o := sn.Meta.Origin; o == nil || !o.Captured || !sn.CapturedHere() || sn.Foreign() || time.Since(o.At) > time.Hour {
		t.Errorf("captured: %+v", o)
	}
	foreign := forge(t, s, sn, func(sp *Spec) { sp.Capture.Mode, sp.Created = "live", time.Now().Add(1e6*time.Hour) })
	if o := foreign.Meta.Origin; o == nil || o.Imported != "there" || foreign.CapturedHere() || !foreign.Foreign() || !foreign.Came().Equal(o.At) {
		t.Errorf("imported: %+v, since %v", o, foreign.Came())
	}
	if old := forge(t, s, sn, func(sp *Spec) { sp.Created = time.Unix(1e9, 0) }); !old.Came().Equal(time.Unix(1e9, 0)) {
		t.Errorf("one that is older came %v", old.Came())
	}
	err := s.SetMeta(t.Context(), foreign.ID, func(m *Meta) error { m.Origin, m.Description = &Origin{Captured: true}, "x"; return nil })
	if again := get(t, s, foreign.ID); err != nil || !again.Foreign() || again.Meta.Description != "x" {
		t.Errorf("after a change of meta.json: %+v, %v", again.Meta, err)
	}
	if how, err := s.RemakeMeta(t.Context(), sn.ID, false); err != nil {
		t.Errorf("%s, %v", how, err)
	}
	if o := get(t, s, sn.ID).Meta.Origin; o == nil || !o.Lost || o.Captured {
		t.Errorf("a meta.json that was lost says %+v", o)
	}
	rewriteMeta(t, s, sn.ID, func(m *Meta) { m.Origin = nil }) // an earlier program
	if was := get(t, s, sn.ID); was.Foreign() || was.CapturedHere() || was.Meta.Origin.String() == "" {
		t.Errorf("of an earlier program: foreign %v", was.Foreign())
	}
}

// TestPagesOfElsewhereAreNotReusedByTheirHash: what an index says of its pages is the
// word of whoever made the pack; he would have others lose theirs.
func TestPagesOfElsewhereAreNotReusedByTheirHash(t *testing.T) {
	s := openTest(t)
	first := ramgen.New(siblingBytes, 1)
	sn, _ := publishGuest(t, s, "first", first, "debian")
	_, alone := publishGuest(t, openTest(t), "alone", first.Sibling(2), "debian")
	for _, o := range []*Origin{{Pulled: "registry/x:1"}, nil} {
		rewriteMeta(t, s, sn.ID, func(m *Meta) { m.Origin = o })
		second, share := publishGuest(t, s, "second", first.Sibling(2), "debian")
		if share > alone+0.02 {
			t.Errorf("%v: a guest of the image reuses %.2f of its pages, one alone in the store %.2f", o, share, alone)
		}
		if err := s.Remove(t.Context(), second.ID, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rewriteMeta(t, s, sn.ID, func(m *Meta) { m.Origin = &Origin{Captured: true} })
	if _, share := publishGuest(t, s, "second", first.Sibling(2), "debian"); share < 0.55 {
		t.Errorf("of one that was captured here %.2f is reused", share)
	}
}

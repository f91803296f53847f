package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

// TestALostMetaIsDamage, however it was lost: nothing takes the snapshot for one
// without a name and protection, and everybody names what is wrong.
func TestALostMetaIsDamage(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"torn":    func(path string) error { return os.WriteFile(path, []byte(`{"na`), 0o600) },
		"long": func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte(" "), int(document.MetaFile.Limit)+1), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t)
			sn := mustPublish(t, s, "here", make([]byte, 4096))
			if err := lose(filepath.Join(sn.Dir, "meta.json")); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), sn.ID); !errors.Is(err, failure.Damaged) || failure.HintOf(err) != "cocoon system repair" {
				t.Errorf("Get: %v", err)
			}
			if got, err := s.contents(t.Context(), sn.ID); err != nil || len(document.Edges(got)) != len(document.Edges(sn)) {
				t.Errorf("what it is made of: %v", err)
			}
			if err := s.Remove(t.Context(), sn.ID, RemoveOptions{}); !errors.Is(err, failure.Damaged) {
				t.Errorf("rm: %v", err)
			}
			if err := s.SetMeta(t.Context(), sn.ID, func(*Meta) error { return nil }); !errors.Is(err, failure.Damaged) {
				t.Errorf("tag: %v", err)
			}
			rows, err := s.Index().Summaries(t.Context())
			if err != nil || len(rows) != 1 || rows[0].State != Damaged || rows[0].VM.Name != "web" {
				t.Errorf("list: %+v, %v", rows, err)
			}
			if err := s.Remove(t.Context(), sn.ID, RemoveOptions{Force: true}); err != nil {
				t.Errorf("rm --force: %v", err)
			}
		})
	}
}

// TestALostMetaIsMadeAgain: with what the listing still knows, and protected.
func TestALostMetaIsMadeAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		forget func(s *Store) error
		name   string
		labels int
	}{
		"it was listed": {func(*Store) error { return nil }, "renamed", 1},
		"nothing is known": {func(s *Store) error {
			return errors.Join(os.Remove(s.Path("refs.db")), os.Remove(s.Path(layout.Names, "renamed")))
		}, "", 0},
		"nothing is derived": {func(s *Store) error {
			return errors.Join(os.Remove(s.Path("refs.db")), s.Names().Complete(t.Context()))
		}, "renamed", 0},
		"only its name is known": {func(s *Store) error { return os.Remove(s.Path("refs.db")) }, "renamed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t)
			sn := mustPublish(t, s, "here", make([]byte, 4096))
			age(t, sn)
			err := s.SetMeta(t.Context(), sn.ID, func(m *Meta) error { m.Labels["k"] = "v"; return nil })
			if err == nil {
				age(t, sn)
				_, err = s.Index().Summaries(t.Context())
			}
			if err == nil { // after it was listed
				err = s.SetMeta(t.Context(), sn.ID, func(m *Meta) error { m.Name = "renamed"; return nil })
			}
			if err := errors.Join(err, tc.forget(s), os.Remove(filepath.Join(sn.Dir, "meta.json"))); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Index().Summaries(t.Context()); err != nil { // which does not forget it
				t.Fatal(err)
			}
			if stale, err := s.Names().Stale(nil); err != nil || len(stale) > 0 {
				t.Errorf("stale names: %v, %v", stale, err)
			}
			for _, dryRun := range []bool{true, false} {
				if how, err := s.RemakeMeta(t.Context(), sn.ID, dryRun); err != nil || !strings.Contains(how, "protected") {
					t.Fatalf("made again: %q, %v", how, err)
				}
				if _, err := s.Meta(sn.ID); dryRun != (err != nil) {
					t.Fatalf("dry run %v: %v", dryRun, err)
				}
			}
			got, err := s.Get(t.Context(), sn.ID)
			if err != nil || got.Meta.Name != tc.name || len(got.Meta.Labels) != tc.labels || !got.Meta.Protected {
				t.Errorf("afterwards: %+v, %v", got.Meta, err)
			}
			if tc.name != "" {
				if id, err := s.Names().Resolve(t.Context(), tc.name); err != nil || id != sn.ID {
					t.Errorf("by its name: %s, %v", id, err)
				}
			}
		})
	}
}

// TestALostNameIsNotTakenFromAnother.
func TestALostNameIsNotTakenFromAnother(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "wanted", make([]byte, 4096))
	if err := os.Remove(filepath.Join(sn.Dir, "meta.json")); err != nil {
		t.Fatal(err)
	}
	other := mustPublish(t, s, "wanted", bytes.Repeat([]byte("y"), 4096))
	if _, err := s.RemakeMeta(t.Context(), sn.ID, false); err != nil {
		t.Fatal(err)
	}
	if id, err := s.Names().Resolve(t.Context(), "wanted"); err != nil || id != other.ID {
		t.Errorf("the name leads to %s, %v; want %s", id, err, other.ID)
	}
	if got, err := s.Get(t.Context(), sn.ID); err != nil || got.Meta.Name != "" {
		t.Errorf("the one that lost it: %+v, %v", got, err)
	}
}

// TestWhatCannotBeReadBackIsNotWritten: no label makes a snapshot unreadable, and
// a refusal changes nothing.
func TestWhatCannotBeReadBackIsNotWritten(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 4096))
	grow := func(m *Meta) error {
		m.Name = "there"
		m.Labels[strings.Repeat("k", len(m.Labels)+1)] = strings.Repeat("v", 120_000)
		return nil
	}
	for i := range 20 {
		err := s.SetMeta(t.Context(), sn.ID, grow)
		got, gerr := s.Get(t.Context(), sn.ID)
		if gerr != nil {
			t.Fatalf("after %d labels: %v", i+1, gerr)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, failure.Usage) || len(got.Meta.Labels) != i {
			t.Errorf("label %d: %v; it has %d", i+1, err, len(got.Meta.Labels))
		}
		huge := Meta{Labels: map[string]string{"k": strings.Repeat("v", 2<<20)}}
		if err := huge.Check(); !errors.Is(err, failure.Usage) {
			t.Errorf("a new snapshot with a label of 2 MiB: %v", err)
		}
		return
	}
	t.Error("twenty labels of 120 kB each were taken")
}

// TestWhatIsLeftOfASnapshotIsListed: its config is lost, what meta.json says is
// not.
func TestWhatIsLeftOfASnapshotIsListed(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 4096))
	err := s.SetMeta(t.Context(), sn.ID, func(m *Meta) error { m.Protected, m.Labels["k"] = true, "v"; return nil })
	if err := errors.Join(err, os.Remove(s.BlobPath(sn.Manifest.Config.Digest))); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Index().Summaries(t.Context())
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	r := rows[0]
	if r.Name != "here" || !r.Protected || r.Labels["k"] != "v" || r.State != Damaged || r.Size.Stored != sn.StoredBytes {
		t.Errorf("listed as %+v", r)
	}
}

// age waits until the files of a snapshot are old enough to be remembered by the
// listing.
func age(t *testing.T, sn *Snapshot) {
	t.Helper()
	for _, name := range []string{"meta.json", "manifest.json"} {
		for young := true; young; { // nobody can set ctime
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(sn.Dir, name), &st); err != nil {
				t.Fatal(err)
			}
			young = time.Since(time.Unix(0, st.Ctim.Nano())) < 25*time.Millisecond
			if young {
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// TestANewerMetaIsNotRewritten: what a newer program noted there would be
// forgotten.
func TestANewerMetaIsNotRewritten(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 4096))
	path := filepath.Join(sn.Dir, "meta.json")
	b, err := os.ReadFile(path)
	newer := bytes.Replace(b, []byte("{"), []byte(`{"unheardOf":1,`), 1)
	if err := errors.Join(err, os.WriteFile(path, newer, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), sn.ID); err != nil || got.Meta.Name != "here" {
		t.Errorf("read: %v", err)
	}
	if err := s.SetMeta(t.Context(), sn.ID, func(m *Meta) error { m.Name = "there"; return nil }); !errors.Is(err, failure.Incompatible) {
		t.Errorf("rename: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, newer) {
		t.Errorf("it became %s (%v)", after, err)
	}
}

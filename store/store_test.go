package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/layout"
)

// free vetoes nothing.
func free(context.Context, *Store, ID) error { return nil }

func openTest(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "root"), Options{Create: true, Veto: free})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func leaseTest(t testing.TB, s *Store) *Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	return l
}

// image is RAM of pages with distinct contents, seed by seed.
func image(seed, pages int) []byte {
	b := make([]byte, pages*4096)
	for p := range pages {
		if p%3 != 2 {
			copy(b[p*4096:], fmt.Sprintf("page %d of %d", p, seed))
		}
	}
	return b
}

// publish makes a snapshot of the given RAM.
func publish(ctx context.Context, s *Store, l *Lease, name string, ram []byte) (*Snapshot, error) {
	return publishSaying(ctx, s, l, name, ram, func(*Spec) {})
}

// publishSaying is publish of a snapshot that says more, or other things.
func publishSaying(ctx context.Context, s *Store, l *Lease, name string, ram []byte, say func(*Spec)) (*Snapshot, error) {
	in, err := s.Ingest(ctx, l)
	if err != nil {
		return nil, err
	}
	w := in.Pages(ctx)
	iw := w.Image(uint64(len(ram)), nil)
	if err := iw.ReadFrom(ctx, bytes.NewReader(ram), nil); err != nil {
		return nil, err
	}
	if _, err := w.Flush(ctx); err != nil {
		return nil, err
	}
	m, err := iw.Finish()
	if err != nil {
		return nil, err
	}
	md, err := in.PutMap(ctx, m)
	if err != nil {
		return nil, err
	}
	cfg, err := in.Put(ctx, MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		return nil, err
	}
	st, err := in.Put(ctx, MediaTypeCHState, []byte(`{"state":1}`))
	if err != nil {
		return nil, err
	}
	sp := Spec{
		Record: []byte("{}"), CHConfig: cfg.Digest, CHState: st.Digest, VM: VMRef{ID: "vm", Name: "web"},
		Memory: []MemoryRange{{Bytes: uint64(len(ram)), Map: md.Digest}},
	}
	say(&sp)
	sn, err := in.Commit(ctx, sp, Meta{Name: name})
	if err != nil {
		return nil, errors.Join(err, in.Abort())
	}
	return sn, nil
}

func mustPublish(t testing.TB, s *Store, name string, ram []byte) *Snapshot {
	t.Helper()
	l := leaseTest(t, s)
	sn, err := publish(t.Context(), s, l, name, ram)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	return sn
}

func TestWhatIsPublishedReadsBack(t *testing.T) {
	s, ram := openTest(t), image(1, 30)
	sn := mustPublish(t, s, "first", ram)
	got, err := s.Get(t.Context(), sn.ID)
	if err != nil {
		t.Fatal(err)
	}
	im, err := contents.Of(s, got).Memory(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	back := make([]byte, len(ram))
	if _, err := im.ReadAt(back, 0); err != nil || !bytes.Equal(back, ram) {
		t.Errorf("RAM read back differs (%v)", err)
	}
	if found := damages(t, s); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestResolve(t *testing.T) {
	s := openTest(t)
	a, b := mustPublish(t, s, "a", image(1, 3)), mustPublish(t, s, "", image(2, 3))
	for ref, want := range map[string]ID{"a": a.ID, string(b.ID): b.ID, string(b.ID[:12]): b.ID} {
		if got, err := s.Resolve(t.Context(), ref); err != nil || got != want {
			t.Errorf("%q: %s %v, want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"b", "", string(a.ID[:2]), "../x", strings.Repeat("0", 32)} {
		if _, err := s.Resolve(t.Context(), ref); !errors.Is(err, failure.NotFound) {
			t.Errorf("%q: %v, want not found", ref, err)
		}
	}
}

func TestAnAmbiguousPrefixIsRefused(t *testing.T) {
	s := openTest(t)
	seen := map[string]bool{}
	for i := 0; ; i++ { // 4096 prefixes of three: a pair shows up soon
		id := mustPublish(t, s, "", image(1, 1)).ID
		if prefix := string(id[:3]); seen[prefix] {
			if _, err := s.Resolve(t.Context(), prefix); !errors.Is(err, failure.Conflict) {
				t.Errorf("%q: %v, want a conflict", prefix, err)
			}
			return
		}
		seen[string(id[:3])] = true
		if i > 2000 {
			t.Fatal("no two ids with one prefix")
		}
	}
}

func TestOfTwoCommitsWithOneNameOneWins(t *testing.T) {
	s := openTest(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		l := leaseTest(t, s)
		wg.Go(func() { _, errs[i] = publish(t.Context(), s, l, "same", image(i, 3)) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, failure.Conflict):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d commits won", won)
	}
}

func TestProtectedAndHeldSnapshotsStay(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "a", image(1, 3))
	if err := s.SetMeta(t.Context(), sn.ID, func(m *Meta) error { m.Protected = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), sn.ID, RemoveOptions{}); !errors.Is(err, failure.Conflict) {
		t.Errorf("protected: %v", err)
	}
	l := leaseTest(t, s)
	if err := l.HoldSnapshot(t.Context(), sn.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), sn.ID, RemoveOptions{Force: true}); !errors.Is(err, failure.Conflict) {
		t.Errorf("held: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), sn.ID, RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), sn.ID); !errors.Is(err, failure.NotFound) {
		t.Errorf("after rm: %v", err)
	}
}

func TestSummariesFollowEveryChange(t *testing.T) {
	s := openTest(t)
	one, two := mustPublish(t, s, "one", image(1, 9)), mustPublish(t, s, "two", image(1, 9))
	list := func() map[ID]index.Summary {
		all, err := s.Index().Summaries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m := map[ID]index.Summary{}
		for _, x := range all {
			m[x.ID] = x
		}
		return m
	}
	shared := list()[one.ID].Size
	if shared.Unique >= shared.Stored {
		t.Errorf("two equal snapshots share nothing: %+v", shared)
	}
	if err := s.SetMeta(t.Context(), one.ID, func(m *Meta) error { m.Name = "renamed"; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := list()[one.ID].Name; got != "renamed" {
		t.Errorf("name %q after rename", got)
	}
	if err := s.Remove(t.Context(), two.ID, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	after := list()
	if len(after) != 1 || after[one.ID].Size.Unique != after[one.ID].Size.Stored {
		t.Errorf("after rm of the other: %+v", after)
	}
	if err := os.WriteFile(s.Path("refs.db"), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := list(); len(got) != 1 || got[one.ID].Name != "renamed" {
		t.Errorf("after damage of the derived file: %+v", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(dir string) error
		want error
	}{
		"unknown version": {func(d string) error {
			return os.WriteFile(d+"/format", []byte(`{"format":"cocoon-store","version":3}`), 0o600)
		}, failure.Incompatible},
		"another program":     {func(d string) error { return os.WriteFile(d+"/format", []byte(`{"format":"x"}`), 0o600) }, failure.Incompatible},
		"somebody's folder":   {func(d string) error { return os.WriteFile(d+"/thesis.tex", nil, 0o600) }, failure.Incompatible},
		"writable by others":  {func(d string) error { return os.Chmod(d, 0o777) }, failure.Incompatible},
		"format is a symlink": {func(d string) error { return os.Symlink("/etc/passwd", d+"/format") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Chmod(dir, 0o700), tc.make(dir)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), dir, Options{Create: true})
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestAStoreOpenToOthersIsRefused at each of its folders, with a remedy that
// works; a store is made private, also in a folder that was there.
func TestAStoreOpenToOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	open := func() error { _, err := Open(t.Context(), dir, Options{Create: true}); return err }
	if err := errors.Join(os.Chmod(dir, 0o755), open(), open()); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(layout.Folders(), "", "blobs", "images", "cache") {
		path := filepath.Join(dir, f)
		for _, mode := range []os.FileMode{0o710, 0o701, 0o720, 0o755, 0o777} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			err := open()
			if !errors.Is(err, failure.Incompatible) || !strings.Contains(failure.HintOf(err), "chmod 700 "+path) {
				t.Errorf("%s with mode %o: %v, hint %q", f, mode, err, failure.HintOf(err))
			}
			if mended, err := layout.MakePrivate(dir); err != nil || len(mended) != 1 || mended[0] != path {
				t.Errorf("%s with mode %o: mended %q, %v", f, mode, mended, err)
			}
			if err := open(); err != nil {
				t.Errorf("after the remedy: %v", err)
			}
		}
	}
	stranger := t.TempDir()
	if err := os.Chmod(stranger, 0o755); err != nil {
		t.Fatal(err)
	}
	if mended, err := layout.MakePrivate(stranger); err != nil || len(mended) > 0 {
		t.Errorf("a folder that is no store: mended %q, %v", mended, err)
	}
	trash := filepath.Join(dir, "trash")
	if err := errors.Join(os.Remove(trash), os.Symlink(stranger, trash)); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, failure.Usage) {
		t.Errorf("a folder that is a link: %v", err)
	}
}

// killSteps are the named places of one publish.
var killSteps = []string{
	"store.ingest.blob-written", "store.ingest.blob-written#2", "store.ingest.blob-kept", "store.ingest.blob-kept#4",
	"store.commit.staged", "store.commit.checked", "store.commit.published",
}

// TestKillAtEachStepOfAPublish: a killed publish leaves a whole snapshot or
// none, and whole blobs.
func TestKillAtEachStepOfAPublish(t *testing.T) {
	if root := os.Getenv("STORE_TEST_ROOT"); root != "" {
		s, err := Open(t.Context(), root, Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Lease(t.Context(), "victim")
		if err != nil {
			t.Fatal(err)
		}
		_, err = publish(t.Context(), s, l, "killed", image(7, 20))
		t.Fatalf("survived: %v", err)
	}
	for _, step := range killSteps {
		t.Run(step, func(t *testing.T) {
			s := openTest(t)
			mustPublish(t, s, "kept", image(1, 20))
			cmd := exec.Command(os.Args[0], "-test.run", "^TestKillAtEachStepOfAPublish$")
			cmd.Env = append(os.Environ(), "STORE_TEST_ROOT="+s.Root(), durable.KillAt+"="+step)
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the victim was not killed: %v\n%s", err, out)
			}
			if found := damages(t, s); len(found) > 0 {
				t.Errorf("after the kill: %+v", found)
			}
			all, err := s.Index().Summaries(t.Context())
			if want := map[bool]int{true: 2, false: 1}[step == "store.commit.published"]; err != nil || len(all) != want {
				t.Errorf("%d snapshots, want %d (%v)", len(all), want, err)
			}
			if live, err := s.Leases().Live(t.Context()); err != nil || len(live) != 0 {
				t.Errorf("the dead holder's lease lives: %v %v", live, err)
			}
		})
	}
}

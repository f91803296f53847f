package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/prints"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

func open(t testing.TB, root string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), root, store.Options{Create: true, Veto: sleep.Veto})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish makes a snapshot of three small blobs; parts that repeat are shared.
func publish(s *store.Store, parts ...string) (*store.Snapshot, error) {
	ctx := context.Background()
	l, err := s.Lease(ctx, "test")
	if err != nil {
		return nil, err
	}
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	if err != nil {
		return nil, err
	}
	var sp store.Spec
	for _, part := range parts {
		d, err := in.Put(ctx, store.MediaTypeCHConfig, []byte(part))
		if err != nil {
			return nil, err
		}
		sp.CHConfig, sp.CHState = d.Digest, d.Digest
	}
	return in.Commit(ctx, sp, store.Meta{})
}

func mustPublish(t testing.TB, s *store.Store, parts ...string) *store.Snapshot {
	t.Helper()
	sn, err := publish(s, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// sources are the roots of a store, read by the rooms that own them.
func sources(s *store.Store) []garbage.Source {
	return []garbage.Source{vm.Garbage(s), image.Garbage(s), image.Pins(s), image.Blobs(s)}
}

// run is Collect with all sources beside those that the test gives, and without
// grace where it gives none.
func run(ctx context.Context, s *store.Store, o Options) (*Report, error) {
	o.Sources = append(o.Sources, prints.Garbage(s), repair.Garbage(s))
	if !slices.ContainsFunc(o.Sources, func(src garbage.Source) bool { return src.Folder == "cache/memory" }) { // under a cap
		o.Sources = append(o.Sources, ramcache.Cache{Store: s}.Garbage())
	}
	o.Sources = append(sources(s), o.Sources...)
	if o.Grace == 0 {
		o.Grace = -1
	}
	return Collect(ctx, s, o)
}

// writeVM gives a VM a record by which it stands on an image.
func writeVM(t testing.TB, s *store.Store, id string, images ...digest.Digest) string {
	t.Helper()
	dir := s.Path("vms", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeJSON(t, filepath.Join(dir, "record.json"), vm.Record{Version: 1, ID: id, Name: "web-" + id[:4], Images: images})
	return filepath.Join(dir, "record.json")
}

// forget removes a pin or the record of a VM as a verb does.
func forget(t testing.TB, s *store.Store, path string) {
	t.Helper()
	kind, id := "pin", strings.TrimSuffix(filepath.Base(path), ".json")
	if filepath.Base(path) == "record.json" {
		kind, id = "vm", filepath.Base(filepath.Dir(path))
	}
	if _, err := s.Trash().Remove(kind, id, path); err != nil {
		t.Fatal(err)
	}
}

func collect(t testing.TB, s *store.Store, o Options) *Report {
	t.Helper()
	rep, err := run(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func tree(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() != "gc.lock" && d.Name() != "gate.lock" && d.Name() != "store.lock" {
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func blobs(t testing.TB, s *store.Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Path("blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestOrphansGoAndSharedBlobsStay(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	a, b := mustPublish(t, s, "shared", "a"), mustPublish(t, s, "shared", "b")
	if err := s.Remove(t.Context(), a.ID, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s.Root())
	dry := collect(t, s, Options{DryRun: true})
	if d := cmp.Diff(before, tree(t, s.Root())); d != "" {
		t.Errorf("a dry run changed the store (-before +after):\n%s", d)
	}
	rep := collect(t, s, Options{Explain: true})
	if d := cmp.Diff(dry.Removed, rep.Removed); d != "" {
		t.Errorf("dry run and run differ (-dry +run):\n%s", d)
	}
	if len(rep.Removed) != 2 { // the part "a" and the spec of snapshot a
		t.Errorf("removed %+v, want two blobs", rep.Removed)
	}
	var want []string
	for _, d := range document.Edges(b) {
		want = append(want, d.Encoded())
	}
	slices.Sort(want)
	if d := cmp.Diff(slices.Compact(want), blobs(t, s)); d != "" {
		t.Errorf("blobs after gc (-want +got):\n%s", d)
	}
	for _, k := range rep.Kept {
		if len(k.Holders) == 0 {
			t.Errorf("%s %s is kept by nobody", k.Kind, k.ID)
		}
	}
}

func TestUnreadableOrDanglingRootSweepsNothing(t *testing.T) {
	for name, harm := range map[string]func(s *store.Store, sn *store.Snapshot) error{
		"manifest torn": func(s *store.Store, sn *store.Snapshot) error {
			return os.WriteFile(filepath.Join(sn.Dir, "manifest.json"), []byte(`{"schema`), 0o600)
		},
		"blob missing": func(s *store.Store, sn *store.Snapshot) error {
			return os.Remove(s.BlobPath(sn.Spec.CHConfig))
		},
		"vm record torn": func(s *store.Store, _ *store.Snapshot) error {
			dir := s.Path("vms", "0123456789abcdef0123456789abcdef")
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "record.json"), nil, 0o600))
		},
		"pin torn": func(s *store.Store, _ *store.Snapshot) error {
			return os.WriteFile(s.Path("pins", "p.json"), []byte("["), 0o600)
		},
		"image record torn": func(s *store.Store, _ *store.Snapshot) error {
			return os.WriteFile(s.Path("images", "i.json"), []byte("["), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "root"))
			gone := mustPublish(t, s, "orphan")
			if err := s.Remove(t.Context(), gone.ID, store.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := harm(s, mustPublish(t, s, "kept")); err != nil {
				t.Fatal(err)
			}
			before := blobs(t, s)
			if _, err := run(t.Context(), s, Options{}); !errors.Is(err, failure.Damaged) {
				t.Errorf("gc: %v, want damaged", err)
			}
			if d := cmp.Diff(before, blobs(t, s)); d != "" {
				t.Errorf("swept (-before +after):\n%s", d)
			}
		})
	}
}

// TestModel drives a store and a set of roots by the same random steps: what a
// root names is never swept, and what none names is gone after a run.
func TestModel(t *testing.T) {
	n := 0
	base := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		n++
		s := open(t, filepath.Join(base, fmt.Sprint(n)))
		snaps := map[store.ID][]digest.Digest{}
		files := map[string][]digest.Digest{} // pin files and VM records
		leases := map[*store.Lease][]digest.Digest{}
		letters := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		r.Repeat(map[string]func(*rapid.T){
			"create": func(r *rapid.T) {
				sn := mustPublish(t, s, letters.Draw(r, "x"), letters.Draw(r, "y"))
				snaps[sn.ID] = document.Edges(sn)
			},
			"remove": func(r *rapid.T) {
				for id := range snaps {
					if err := s.Remove(t.Context(), id, store.RemoveOptions{}); err != nil {
						t.Fatal(err)
					}
					delete(snaps, id)
					return
				}
			},
			"pin": func(r *rapid.T) {
				d := digest.FromString(letters.Draw(r, "pin"))
				path := s.Path("pins", d.Encoded()[:8]+".json")
				writeJSON(t, path, map[string]any{"digests": []digest.Digest{d}})
				files[path] = []digest.Digest{d}
			},
			"record": func(r *rapid.T) {
				d := digest.FromString(letters.Draw(r, "vm"))
				files[writeVM(t, s, d.Encoded()[:32], d)] = []digest.Digest{d}
			},
			"forget": func(r *rapid.T) {
				for path := range files {
					forget(t, s, path)
					delete(files, path)
					return
				}
			},
			"lease": func(r *rapid.T) {
				d := digest.FromString(letters.Draw(r, "lease"))
				l, err := s.Lease(t.Context(), "model")
				if err := errors.Join(err, l.Hold(t.Context(), d)); err != nil {
					t.Fatal(err)
				}
				leases[l] = []digest.Digest{d}
			},
			"release": func(r *rapid.T) {
				for l := range leases {
					if err := l.Release(); err != nil {
						t.Fatal(err)
					}
					delete(leases, l)
					return
				}
			},
			"gc": func(r *rapid.T) {
				had := blobs(t, s)
				held := map[string]bool{}
				for _, ds := range [][][]digest.Digest{values(snaps), values(files), values(leases)} {
					for _, d := range slices.Concat(ds...) {
						held[d.Encoded()] = true
					}
				}
				collect(t, s, Options{})
				want := slices.DeleteFunc(had, func(b string) bool { return !held[b] })
				if d := cmp.Diff(want, blobs(t, s), cmpopts.EquateEmpty()); d != "" {
					r.Fatalf("blobs after gc (-model +store):\n%s", d)
				}
			},
		})
		for l := range leases {
			l.Release()
		}
	})
}

func values[K comparable](m map[K][]digest.Digest) (out [][]digest.Digest) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKillAtEachStep kills a collector at its named steps; the next one leaves
// exactly what the published snapshot needs.
func TestKillAtEachStep(t *testing.T) {
	if root := os.Getenv("GC_TEST_ROOT"); root != "" {
		collect(t, open(t, root), Options{})
		return
	}
	for _, step := range []string{"gc.reaped", "gc.marked", "gc.planned", "store.discard", "store.discard#2", "gc.settled", "gc.swept", "store.trash.unlinked", "gc.noted"} {
		t.Run(step, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "root"))
			kept, gone := mustPublish(t, s, "k"), mustPublish(t, s, "g")
			if err := s.Remove(t.Context(), gone.ID, store.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(os.Args[0], "-test.run=^TestKillAtEachStep$")
			c.Env = append(os.Environ(), "GC_TEST_ROOT="+s.Root(), "COCOON_KILL_AT="+step)
			if err := c.Run(); err == nil || c.ProcessState.ExitCode() != -1 {
				t.Fatalf("the collector was not killed at %s: %v", step, err)
			}
			collect(t, s, Options{})
			if got := len(blobs(t, s)); got != 2 { // its part and its spec
				t.Errorf("%d blobs, want 2", got)
			}
			if _, err := s.Get(t.Context(), kept.ID); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(s.Path("trash")); len(left) > 0 {
				t.Errorf("trash holds %v", left)
			}
			if rep := collect(t, s, Options{}); len(rep.Removed) > 0 {
				t.Errorf("a second run still removes %+v", rep.Removed)
			}
		})
	}
}

// TestEveryFolderHasACollector: whoever adds a folder to the layout must say who
// cleans it.
func TestEveryFolderHasACollector(t *testing.T) {
	known := map[string]bool{}
	for _, f := range handled {
		known[f] = true
	}
	for _, m := range modules {
		known[m.folder] = true
	}
	s := open(t, filepath.Join(t.TempDir(), "root"))
	for _, src := range append(sources(s), (&restore.Engine{Store: s}).Garbage(nil), network.Garbage(&fakeNetwork{}), ramcache.Cache{Store: s}.Garbage(), prints.Garbage(s)) {
		known[src.Folder] = true
	}
	for _, f := range layout.Folders() {
		if !known[f] {
			t.Errorf("folder %s has no collector", f)
		}
	}
}

// lockLease makes a lease one of a living process, until the test ends.
func lockLease(t *testing.T, path string) {
	t.Helper()
	l, err := filelock.ExclusiveExisting(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Unlock() })
}

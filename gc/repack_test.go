package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/repack"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// noise is RAM that does not compress: the pages from to to of a guest.
func noise(from, to int) []byte {
	var out []byte
	for p := from; p < to; p++ {
		rnd := rand.New(rand.NewPCG(uint64(p), 1))
		page := make([]byte, pack.PageSize)
		for i := range page {
			page[i] = byte(rnd.Uint32())
		}
		out = append(out, page...)
	}
	return out
}

// publishRAM makes a snapshot of RAM beside a parent, whose pages it reuses.
func publishRAM(ctx context.Context, s *store.Store, name string, ram []byte, parent *store.Snapshot) (*store.Snapshot, error) {
	l, err := s.Lease(ctx, "create "+name)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	if err != nil {
		return nil, err
	}
	var before *pack.Image
	if parent != nil {
		if parent, err = l.HoldEdges(ctx, parent.ID); err != nil {
			return nil, err
		}
		if before, err = contents.Of(s, parent).Memory(ctx, 0); err != nil {
			return nil, err
		}
		defer before.Close()
	}
	// Frames are kept, so that a few pages make a pack poor.
	key, err := s.SealingKey()
	if err != nil {
		return nil, err
	}
	w := packer.NewWriter(ctx, in, packer.WriterOptions{KeepFrames: true, Key: key})
	iw := w.Image(uint64(len(ram)), before)
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
	return commitRAM(ctx, in, name, m)
}

func commitRAM(ctx context.Context, in *store.Ingest, name string, m *pack.Map) (*store.Snapshot, error) {
	d, err := in.PutMap(ctx, m)
	if err != nil {
		return nil, err
	}
	c, err := in.Put(ctx, store.MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		return nil, err
	}
	sp := store.Spec{Created: time.Now(), Record: []byte("{}"), CHConfig: c.Digest, CHState: c.Digest, Memory: []store.MemoryRange{{Bytes: m.Bytes, Map: d.Digest}}}
	return in.Commit(ctx, sp, store.Meta{Name: name})
}

func mustRAM(t testing.TB, s *store.Store, name string, ram []byte, parent *store.Snapshot) *store.Snapshot {
	t.Helper()
	sn, err := publishRAM(t.Context(), s, name, ram, parent)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

func mustRemove(t testing.TB, s *store.Store, id store.ID) {
	t.Helper()
	if err := s.Remove(t.Context(), id, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// readsBack fails unless the snapshot's RAM is what was published.
func readsBack(t testing.TB, s *store.Store, id store.ID, ram []byte) {
	t.Helper()
	l, err := s.Lease(t.Context(), "read back")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	sn, err := l.HoldEdges(t.Context(), id)
	if err != nil {
		t.Error(err)
		return
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer im.Close()
	got := make([]byte, len(ram))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, ram) {
		t.Errorf("RAM of %s read back differs (%v)", id, err)
	}
}

// poor leaves a store in which a snapshot of 100 pages needs 20 of a pack of 300
// and 80 of its own.
func poor(t testing.TB, s *store.Store) (sn *store.Snapshot, ram []byte) {
	t.Helper()
	first := mustRAM(t, s, "first", noise(0, 300), nil)
	ram = append(noise(10, 30), noise(1000, 1080)...)
	sn = mustRAM(t, s, "second", ram, first)
	mustRemove(t, s, first.ID)
	return sn, ram
}

var repackHalf = &Repack{Threshold: 0.5}

func TestPoorPacksAreRewritten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	sn, ram := poor(t, s)
	ramcache.Follow(s)
	key := ramcache.Key(sn)
	if err := os.WriteFile(ramcache.Path(s, key), ram, 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s.Root())
	dry := collect(t, s, Options{DryRun: true, Explain: true, Repack: repackHalf})
	if d := cmp.Diff(before, tree(t, s.Root())); d != "" {
		t.Errorf("a dry run changed the store (-before +after):\n%s", d)
	}
	occupied := hostfacts.FileBytes(s.Path("blobs"))
	rep := collect(t, s, Options{Explain: true, Repack: repackHalf})
	if d := cmp.Diff(dry.Repack, rep.Repack, cmpopts.IgnoreFields(RepackReport{}, "Snapshots", "WrittenBytes")); d != "" {
		t.Errorf("dry run and run differ (-dry +run):\n%s", d)
	}
	r := rep.Repack
	if len(r.Packs) != 2 || r.Packs[0].Action != "rewrite" || r.Packs[0].LivePages != 20 || r.Packs[0].Pages != 300 || r.Packs[1].Action != "keep" {
		t.Errorf("packs %+v", r.Packs)
	}
	if freed := occupied - hostfacts.FileBytes(s.Path("blobs")); freed < 270*pack.PageSize {
		t.Errorf("%d bytes came free, want those of nearly 280 pages; expected %d of %d", freed, r.ExpectedBytes, r.OldBytes)
	}
	readsBack(t, s, sn.ID, ram)
	now, err := s.Get(t.Context(), sn.ID)
	if err != nil {
		t.Fatal(err)
	}
	if now.Meta.Name != "second" || now.ManifestDigest == sn.ManifestDigest || !now.Means(sn.ManifestDigest) || len(r.Snapshots) != 1 {
		t.Errorf("the snapshot is now %q with manifest %s, formerly %v", now.Meta.Name, now.ManifestDigest, now.Meta.Former)
	}
	if b, err := os.ReadFile(ramcache.Path(s, ramcache.Key(now))); err != nil || !bytes.Equal(b, ram) {
		t.Errorf("the RAM in the cache has no new name: %v", err)
	}
	sound(t, s)
	again := collect(t, s, Options{Repack: repackHalf})
	if len(again.Removed) > 0 || len(again.Repack.Packs) > 0 {
		t.Errorf("a second run still does %+v, %+v", again.Removed, again.Repack)
	}
}

// sound fails unless the store is whole and holds just what is needed.
func sound(t testing.TB, s *store.Store) {
	t.Helper()
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) > 0 {
		t.Errorf("verify: %+v %v", rep, err)
	}
	var want []string
	for sn, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range document.Edges(sn) {
			want = append(want, d.Encoded())
		}
	}
	slices.Sort(want)
	if d := cmp.Diff(slices.Compact(want), blobs(t, s), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("blobs (-needed +there):\n%s", d)
	}
}

// TestWhatIsHeldIsNotRepacked: whoever works with a snapshot, by its id or by
// what it names, keeps its packs as they are; so does a quarantine.
func TestWhatIsHeldIsNotRepacked(t *testing.T) {
	for name, hold := range map[string]func(*store.Store, *store.Lease, *store.Snapshot) error{
		"by its id": func(_ *store.Store, l *store.Lease, sn *store.Snapshot) error {
			return l.HoldSnapshot(t.Context(), sn.ID)
		},
		"by its edges": func(_ *store.Store, l *store.Lease, sn *store.Snapshot) error {
			_, err := l.HoldEdges(t.Context(), sn.ID)
			return err
		},
		"quarantined": func(s *store.Store, _ *store.Lease, sn *store.Snapshot) error {
			return s.SetMeta(t.Context(), sn.ID, func(m *store.Meta) error {
				m.Quarantine = &store.Quarantine{Since: time.Now()}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "root"))
			sn, ram := poor(t, s)
			l, err := s.Lease(t.Context(), "reader")
			if err := errors.Join(err, hold(s, l, sn)); err != nil {
				t.Fatal(err)
			}
			rep := collect(t, s, Options{Repack: repackHalf})
			if len(rep.Repack.Packs) != 1 || rep.Repack.Packs[0].Action != "keep" || rep.Repack.Packs[0].Reason == "" {
				t.Errorf("packs %+v", rep.Repack.Packs)
			}
			if !s.Current(sn) {
				t.Error("the manifest was replaced")
			}
			readsBack(t, s, sn.ID, ram)
			if err := l.Release(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestADamagedPackIsNotRepacked: the others are, and nothing damaged gets a new
// hash.
func TestADamagedPackIsNotRepacked(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	bad := mustRAM(t, s, "bad", noise(5000, 5300), nil)
	ram := append(noise(5000, 5020), noise(6000, 6080)...)
	stays := mustRAM(t, s, "stays", ram, bad)
	path := s.BlobPath(bad.Manifest.Layers[0].Digest)
	mustRemove(t, s, bad.ID)
	sn, good := poor(t, s)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1 // of the first page, which is live
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	rep := collect(t, s, Options{Repack: repackHalf})
	actions := map[string]int{}
	for _, p := range rep.Repack.Packs {
		actions[p.Action]++
	}
	if d := cmp.Diff(map[string]int{"keep": 1, "rewrite": 1}, actions); d != "" {
		t.Errorf("packs %+v", rep.Repack.Packs)
	}
	readsBack(t, s, sn.ID, good)
	if !s.Current(stays) || !exists(path) {
		t.Error("the damaged pack was touched")
	}
}

// TestEncryptedPacksStayUnderTheirKey, whichever one new snapshots get; without
// the key they stay as they are.
func TestEncryptedPacksStayUnderTheirKey(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	old, newer := keyring.FromSecret([32]byte{1}), keyring.FromSecret([32]byte{2})
	with := func(keys ...*keyring.Key) *store.Store {
		s, err := store.Open(t.Context(), root, store.Options{Create: true, Veto: sleep.Veto, Keys: keyring.FromKeys(keys...)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sn, ram := poor(t, with(old))
	rep := collect(t, with(newer), Options{Repack: repackHalf})
	for _, p := range rep.Repack.Packs {
		if p.Action != "keep" {
			t.Errorf("without the key: %+v", p)
		}
	}
	s := with(newer, old)
	if err := s.SetMeta(t.Context(), sn.ID, func(m *store.Meta) error { m.Name = "older"; return nil }); err != nil {
		t.Fatal(err)
	}
	plainer, plainerRAM := poor(t, s)
	if !s.Current(sn) {
		t.Error("without the key the manifest was replaced")
	}
	if rep = collect(t, s, Options{Repack: repackHalf}); len(rep.Repack.Snapshots) != 2 {
		t.Errorf("replaced %v, packs %+v", rep.Repack.Snapshots, rep.Repack.Packs)
	}
	for id, want := range map[store.ID]*keyring.Key{sn.ID: old, plainer.ID: newer} {
		now, err := s.Get(t.Context(), id)
		if err := errors.Join(err, contents.Of(s, now).Unlock(t.Context())); err != nil {
			t.Fatal(err)
		}
		if now.Spec.Key != want.ID().String() {
			t.Errorf("snapshot %s is under key %s, was under %s", id, now.Spec.Key, want.ID())
		}
	}
	readsBack(t, s, sn.ID, ram)
	readsBack(t, s, plainer.ID, plainerRAM)
	sound(t, s)
}

// TestNoRoomToRepack: it is seen before anything is written; the rest of the run
// is done.
func TestNoRoomToRepack(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	sn, ram := poor(t, open(t, root))
	s, err := store.Open(t.Context(), root, store.Options{MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	orphan := orphans(t, open(t, root), "orphan")
	rep, err := run(t.Context(), s, Options{Repack: repackHalf})
	if !errors.Is(err, failure.NoSpace) || rep == nil || len(rep.Repack.Packs) != 1 || rep.Repack.Packs[0].Action != "keep" {
		t.Fatalf("%v, %+v", err, rep)
	}
	if exists(s.BlobPath(orphan)) {
		t.Error("what nothing names was not collected")
	}
	if !s.Current(sn) {
		t.Error("the manifest was replaced")
	}
	readsBack(t, s, sn.ID, ram)
}

// TestKilledRepackGoesOn: whatever step it dies at, the next run leaves a store
// that holds just what is needed and reads the same.
func TestKilledRepackGoesOn(t *testing.T) {
	if root := os.Getenv("GC_TEST_REPACK"); root != "" {
		collect(t, open(t, root), Options{Repack: repackHalf})
		return
	}
	for _, step := range []string{
		"store.ingest.blob-written", "store.ingest.blob-kept", "store.repack.packed", "store.repack.mapped", "store.repack.staged",
		"store.repack.replaced", "store.repack.mapped#2", "store.repack.replaced#2", "gc.repacked", "store.discard", "gc.swept",
	} {
		t.Run(step, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "root"))
			sn, ram := poor(t, s)
			more := append(bytes.Clone(ram), noise(2000, 2005)...)
			third := mustRAM(t, s, "third", more, sn)
			c := exec.Command(os.Args[0], "-test.run=^TestKilledRepackGoesOn$")
			c.Env = append(os.Environ(), "GC_TEST_REPACK="+s.Root(), durable.KillAt+"="+step)
			if err := c.Run(); err == nil || c.ProcessState.ExitCode() != -1 {
				t.Fatalf("the collector was not killed at %s: %v", step, err)
			}
			readsBack(t, s, sn.ID, ram)
			readsBack(t, s, third.ID, more)
			collect(t, s, Options{Repack: repackHalf})
			readsBack(t, s, sn.ID, ram)
			readsBack(t, s, third.ID, more)
			sound(t, s)
			pages := 0
			for _, p := range collect(t, s, Options{Explain: true, Repack: repackHalf}).Repack.Packs {
				pages += p.Pages
			}
			if pages != 105 {
				t.Errorf("%d pages are stored, want 105", pages)
			}
			if left, _ := os.ReadDir(s.Path("ingest")); len(left) > 0 {
				t.Errorf("ingest holds %v", left)
			}
		})
	}
}

// TestAReplacedSnapshotIsReadWhole: between any two looks of a reader its
// snapshot may be repacked and what it named be collected.
func TestAReplacedSnapshotIsReadWhole(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	var mu sync.Mutex
	want := map[store.ID][]byte{}
	duration := 3 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var wg sync.WaitGroup
	var reads, repacked int
	wg.Go(func() { // creates and removes
		for i := 0; ctx.Err() == nil; i++ {
			first, err := publishRAM(context.Background(), s, "", noise(i*40, i*40+40), nil)
			if err != nil {
				t.Error(err)
				return
			}
			ram := append(noise(i*40, i*40+5), noise(100000+i*10, 100000+i*10+6)...)
			sn, err := publishRAM(context.Background(), s, "", ram, first)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Remove(context.Background(), first.ID, store.RemoveOptions{}); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			want[sn.ID] = ram
			mu.Unlock()
		}
	})
	wg.Go(func() { // reads, and looks at everything
		for ctx.Err() == nil {
			mu.Lock()
			ids := make([]store.ID, 0, len(want))
			for id := range want {
				ids = append(ids, id)
			}
			mu.Unlock()
			for _, id := range ids {
				mu.Lock()
				ram := want[id]
				mu.Unlock()
				readsBack(t, s, id, ram)
				reads++
			}
			if rep, err := repair.Verify(context.Background(), s, nil, repair.VerifyOptions{ReadData: true}); err != nil && !errors.Is(err, failure.NotFound) || rep != nil && len(rep.Damaged) > 0 {
				t.Errorf("verify: %+v %v", rep, err)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			rep, err := run(context.Background(), s, Options{Repack: repackHalf})
			if err != nil {
				t.Error(err)
				return
			}
			repacked += len(rep.Repack.Snapshots)
		}
	})
	wg.Wait()
	collect(t, s, Options{Repack: repackHalf})
	for id, ram := range want {
		readsBack(t, s, id, ram)
	}
	sound(t, s)
	t.Logf("%d snapshots, %d reads, %d times one was replaced", len(want), reads, repacked)
	if repacked == 0 {
		t.Error("nothing was repacked")
	}
}

// TestModelOfRepack: whatever is created and removed, every snapshot reads the
// same after each run, and no pack below the threshold is left.
func TestModelOfRepack(t *testing.T) {
	base, pages := t.TempDir(), noise(0, 80)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		s := open(t, filepath.Join(base, fmt.Sprint(n)))
		defer os.RemoveAll(s.Root())
		want := map[store.ID][]byte{}
		var order []store.ID
		r.Repeat(map[string]func(*rapid.T){
			"create": func(r *rapid.T) {
				var ram []byte
				for range rapid.IntRange(1, 4).Draw(r, "parts") {
					from := rapid.IntRange(0, 60).Draw(r, "from")
					to := from + rapid.IntRange(1, 20).Draw(r, "pages")
					ram = append(ram, pages[from*pack.PageSize:to*pack.PageSize]...)
				}
				var parent *store.Snapshot
				if len(order) > 0 && rapid.Bool().Draw(r, "parent") {
					var err error
					if parent, err = s.Get(t.Context(), order[len(order)-1]); err != nil {
						r.Fatal(err)
					}
				}
				sn := mustRAM(t, s, "", ram, parent)
				want[sn.ID], order = ram, append(order, sn.ID)
			},
			"remove": func(r *rapid.T) {
				if len(order) == 0 {
					return
				}
				i := rapid.IntRange(0, len(order)-1).Draw(r, "which")
				mustRemove(t, s, order[i])
				delete(want, order[i])
				order = slices.Delete(order, i, i+1)
			},
			"repack": func(r *rapid.T) {
				threshold := rapid.SampledFrom([]float64{0.2, 0.5, 1}).Draw(r, "threshold")
				collect(t, s, Options{Repack: &Repack{Threshold: threshold}})
				sound(t, s)
				for id, ram := range want {
					readsBack(t, s, id, ram)
				}
				plan, err := repack.NewPlan(t.Context(), s, repack.Options{Threshold: threshold})
				if err != nil {
					r.Fatal(err)
				}
				for _, u := range plan.Packs {
					if u.Poor {
						r.Fatalf("pack %s is still poor: %d of %d pages", u.ID, u.Live, u.Pages)
					}
				}
				if t.Failed() {
					r.Fatal("see above")
				}
			},
		})
	})
}

// TestNobodyElseReplacesManifests: two cannot have the right at once.
func TestNobodyElseReplacesManifests(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	m, err := s.Maintain(t.Context(), 0, "somebody")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), s, Options{Repack: repackHalf}); !errors.Is(err, failure.Busy) {
		t.Errorf("gc beside another: %v, want busy", err)
	}
	if err := m.End(); err != nil {
		t.Fatal(err)
	}
}

// TestAPackThatNoMapNamesGoes: it stands in a manifest, but nothing of it is
// needed.
func TestAPackThatNoMapNamesGoes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	first := mustRAM(t, s, "", noise(0, 50), nil)
	m, err := contents.Of(s, first).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	second := mustRAM(t, s, "", noise(100, 150), nil)
	other := second.Manifest.Layers[0]
	mustRemove(t, s, second.ID)
	at := []byte(`"layers": [`)
	named := fmt.Appendf(nil, `"layers": [{"mediaType":%q,"digest":%q,"size":%d},`, other.MediaType, other.Digest, other.Size)
	if err := os.WriteFile(filepath.Join(first.Dir, "manifest.json"), bytes.Replace(m, at, named, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	rep := collect(t, s, Options{Repack: repackHalf})
	if len(rep.Repack.Packs) != 1 || rep.Repack.Packs[0].ID != other.Digest.Encoded() || exists(s.BlobPath(other.Digest)) {
		t.Errorf("packs %+v", rep.Repack.Packs)
	}
	readsBack(t, s, first.ID, noise(0, 50))
	sound(t, s)
}

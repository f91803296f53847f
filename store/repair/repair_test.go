package repair_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

func folder(t testing.TB) string { return filepath.Join(t.TempDir(), "root") }

func open(t testing.TB, root string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), root, store.Options{Create: true, Veto: sleep.Veto})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise is RAM that does not compress: each page stands in its pack as it is.
func noise(seed uint64, pages int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, pages*pack.PageSize)
	for i := range out {
		out[i] = byte(rnd.Uint32())
	}
	return out
}

// publish makes a snapshot of RAM, beside a parent whose pages it reuses.
func publish(t *testing.T, s *store.Store, ram []byte, parent *store.Snapshot) *store.Snapshot {
	t.Helper()
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := s.Lease(ctx, "test")
	check(err)
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	check(err)
	var before *pack.Image
	if parent != nil {
		before, err = contents.Of(s, parent).Memory(ctx, 0)
		check(err)
		defer before.Close()
	}
	w := packer.NewWriter(ctx, in, packer.WriterOptions{KeepFrames: true})
	iw := w.Image(uint64(len(ram)), before)
	check(iw.ReadFrom(ctx, bytes.NewReader(ram), nil))
	_, err = w.Flush(ctx)
	check(err)
	m, err := iw.Finish()
	check(err)
	d, err := in.PutMap(ctx, m)
	check(err)
	c, err := in.Put(ctx, store.MediaTypeCHConfig, []byte("{}"))
	check(err)
	sn, err := in.Commit(ctx, store.Spec{
		Record: []byte("{}"), CHConfig: c.Digest, CHState: c.Digest, Memory: []store.MemoryRange{{Bytes: m.Bytes, Map: d.Digest}},
	}, store.Meta{})
	check(err)
	return sn
}

// worn is a snapshot that needs the first 20 of the 300 pages of a pack.
func worn(t *testing.T, s *store.Store) (sn *store.Snapshot, ram []byte, old digest.Digest) {
	t.Helper()
	all := noise(1, 300)
	first := publish(t, s, all, nil)
	for _, l := range first.Manifest.Layers {
		if l.MediaType == store.MediaTypePack {
			old = l.Digest
		}
	}
	ram = append(bytes.Clone(all[:20*pack.PageSize]), noise(2, 50)...)
	sn = publish(t, s, ram, first)
	if err := s.Remove(t.Context(), first.ID, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	return sn, ram, old
}

func flipFile(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b[at] ^= 1
		err = errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func repaired(t *testing.T, s *store.Store, o repair.Options) *repair.Report {
	t.Helper()
	rep, err := repair.Run(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func reads(t *testing.T, s *store.Store, id store.ID, ram []byte) {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err == nil {
		err = sn.Usable()
	}
	if err != nil {
		t.Fatal(err)
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, len(ram))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, ram) {
		t.Errorf("RAM read back differs (%v)", err)
	}
}

// TestALostPageThatNoMapNames is no reason to lose a snapshot: what is needed of
// the pack goes to another one.
func TestALostPageThatNoMapNames(t *testing.T) {
	s := open(t, folder(t))
	sn, ram, old := worn(t, s)
	flipFile(t, s.BlobPath(old), 200*pack.PageSize)
	if rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true, Quarantine: true}); err != nil || len(rep.Damaged) != 1 {
		t.Fatalf("verify: %+v %v", rep, err)
	}
	dry := repaired(t, s, repair.Options{DryRun: true})
	if len(dry.Repaired) != 1 || len(dry.Derived) != 1 || len(dry.Left) > 0 || !s.Current(sn) {
		t.Errorf("dry run: %+v", dry)
	}
	rep := repaired(t, s, repair.Options{})
	if len(rep.Left) > 0 || len(rep.Released) != 1 || !strings.Contains(rep.Repaired[0].What, "1 lost ones are named by no page map") {
		t.Errorf("repair: %+v", rep)
	}
	if dry.Repaired[0].What != rep.Repaired[0].What {
		t.Errorf("dry run and run differ: %q, %q", dry.Repaired[0].What, rep.Repaired[0].What)
	}
	reads(t, s, sn.ID, ram)
	if _, err := gc.Collect(t.Context(), s, gc.Options{Sources: []garbage.Source{vm.Garbage(s), image.Garbage(s), image.Pins(s), image.Blobs(s)}, Grace: -1}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.BlobPath(old)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged pack stays: %v", err)
	}
	if again := repaired(t, s, repair.Options{}); len(again.Left) > 0 || !again.Nothing() || len(again.Derived) != 1 {
		t.Errorf("a second repair: %+v", again)
	}
}

// TestALostPageThatIsNeeded is lost, whoever else needs what.
func TestALostPageThatIsNeeded(t *testing.T) {
	s := open(t, folder(t))
	sn, _, old := worn(t, s)
	flipFile(t, s.BlobPath(old), 10*pack.PageSize)
	rep := repaired(t, s, repair.Options{})
	if len(rep.Left) != 1 || len(rep.Quarantined) != 1 || !strings.Contains(rep.Left[0].What, "no copy of 1 pages that are needed") || !s.Current(sn) {
		t.Errorf("repair: %+v", rep)
	}
}

// TestBlobsAreFetched: packs, maps and documents, damaged or missing, and a spec,
// behind which more may be wrong.
func TestBlobsAreFetched(t *testing.T) {
	s := open(t, folder(t))
	ram := noise(3, 40)
	sn := publish(t, s, ram, nil)
	good := map[digest.Digest][]byte{}
	for _, d := range append(sn.Manifest.Layers, sn.Manifest.Config) {
		b, err := os.ReadFile(s.BlobPath(d.Digest))
		if err != nil {
			t.Fatal(err)
		}
		good[d.Digest] = b
		if d.MediaType == store.MediaTypePageMap {
			err = os.Remove(s.BlobPath(d.Digest))
		} else {
			flipFile(t, s.BlobPath(d.Digest), len(b)/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	lies := true
	fetch := func(ctx context.Context, in *store.Ingest, d store.Descriptor) (string, error) {
		b, ok := good[d.Digest]
		if !ok {
			return "", failure.New(failure.NotFound, "no blob %s", d.Digest)
		}
		if lies {
			b = append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]^1)
		}
		return "elsewhere", in.Land(ctx, d, bytes.NewReader(b))
	}
	if rep := repaired(t, s, repair.Options{Fetch: fetch}); len(rep.Left) != 1 {
		t.Errorf("of a place that lies: %+v", rep)
	}
	lies = false
	rep := repaired(t, s, repair.Options{Fetch: fetch})
	if len(rep.Left) > 0 {
		t.Errorf("repair: %+v", rep)
	}
	reads(t, s, sn.ID, ram)
	if found, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true}); err != nil || len(found.Damaged) > 0 {
		t.Errorf("afterwards: %+v %v", found, err)
	}
}

// TestAKilledGiveUpGoesOn: whatever step the move dies at, the next repair ends
// it.
func TestAKilledGiveUpGoesOn(t *testing.T) {
	if root := os.Getenv("REPAIR_TEST_ROOT"); root != "" {
		repaired(t, open(t, root), repair.Options{})
		return
	}
	for _, step := range []string{"store.ingest.blob-kept", "store.repack.packed", "store.repack.mapped", "store.repack.staged", "store.repack.replaced"} {
		t.Run(step, func(t *testing.T) {
			s := open(t, folder(t))
			sn, ram, old := worn(t, s)
			flipFile(t, s.BlobPath(old), 200*pack.PageSize)
			c := exec.Command(os.Args[0], "-test.run=^TestAKilledGiveUpGoesOn$")
			c.Env = append(os.Environ(), "REPAIR_TEST_ROOT="+s.Root(), durable.KillAt+"="+step)
			if err := c.Run(); err == nil || c.ProcessState.ExitCode() != -1 {
				t.Fatalf("the repair was not killed at %s: %v", step, err)
			}
			if rep := repaired(t, s, repair.Options{}); len(rep.Left) > 0 {
				t.Errorf("repair: %+v", rep)
			}
			reads(t, s, sn.ID, ram)
			if _, err := gc.Collect(t.Context(), s, gc.Options{Sources: []garbage.Source{vm.Garbage(s), image.Garbage(s), image.Pins(s), image.Blobs(s)}, Grace: -1}); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(s.Path("ingest")); len(left) > 0 {
				t.Errorf("ingest holds %v", left)
			}
		})
	}
}

// TestADocumentThatIsNoFileIsDamageOfItsSnapshot, and of no other: a link is made a
// file again where that can be, what cannot be is left and told, and the rest goes on.
func TestADocumentThatIsNoFileIsDamageOfItsSnapshot(t *testing.T) {
	s := open(t, folder(t))
	made := map[string]*store.Snapshot{}
	for i, name := range []string{"whole", "meta link", "meta folder", "manifest link", "no manifest"} {
		made[name] = publish(t, s, noise(uint64(i)+1, 30), nil)
	}
	path := func(name, file string) string { return filepath.Join(made[name].Dir, file) }
	aside := func(path string) error { return os.Rename(path, path+".aside") }
	err := errors.Join(
		aside(path("meta link", "meta.json")), os.Symlink("meta.json.aside", path("meta link", "meta.json")),
		aside(path("meta folder", "meta.json")), os.MkdirAll(path("meta folder", "meta.json/sub"), 0o700),
		aside(path("manifest link", "manifest.json")), os.Symlink("manifest.json.aside", path("manifest link", "manifest.json")),
		os.Remove(path("no manifest", "manifest.json")),
	)
	if err != nil {
		t.Fatal(err)
	}
	if found := damages(t, s); len(found) != 4 {
		t.Errorf("verify finds %+v", found)
	}
	rep := repaired(t, s, repair.Options{})
	if len(rep.Repaired) != 1 || rep.Repaired[0].Affects[0] != made["meta link"].ID {
		t.Errorf("repaired: %+v", rep.Repaired)
	}
	left := map[store.ID]string{}
	for _, a := range rep.Left {
		for _, id := range a.Affects {
			left[id] += a.What
		}
	}
	if len(left) != 3 || !strings.Contains(left[made["meta folder"].ID], "rm -r "+path("meta folder", "meta.json")) {
		t.Errorf("left: %+v", rep.Left)
	}
	for _, name := range []string{"whole", "meta link"} {
		if sn, err := s.Get(t.Context(), made[name].ID); err != nil || sn.Usable() != nil {
			t.Errorf("%s: %+v, %v", name, sn, err)
		}
	}
}

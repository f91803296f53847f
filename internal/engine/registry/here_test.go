package registry

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/repair"
)

// squat is a layout with the id of a snapshot and other contents, which says of
// itself that it is the manifest former too.
func squat(t *testing.T, m *Mover, sn *store.Snapshot, former digest.Digest) string {
	t.Helper()
	dir := exported(t, m, string(sn.ID))
	f := openLayout(t, dir)
	f.spec.VM.Name = "squatter"
	f.manifest.Annotations = map[string]string{"io.cocoon.manifest.former": string(former)}
	f.save()
	return dir
}

func TestAForeignWordDoesNotSayWhatIsHere(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := publish(t, a, "first", nil)
	honest := exported(t, a, "first")
	evil := squat(t, a, sn, sn.ManifestDigest)
	squatter, err := b.ImportDir(t.Context(), evil, "", PullOptions{})
	if err != nil || squatter.Spec.VM.Name != "squatter" {
		t.Fatalf("the squatter: %v", err)
	}
	_, err = b.ImportDir(t.Context(), honest, "", PullOptions{Meta: store.Meta{Name: "good"}})
	if !errors.Is(err, failure.Conflict) || !strings.Contains(err.Error(), string(sn.ID)) || !strings.Contains(failure.HintOf(err), "--new-id") {
		t.Fatalf("the honest one beside it: %v (hint %q), want a conflict that names a way", err, failure.HintOf(err))
	}
	for range 2 { // the second time it is here
		got, err := b.ImportDir(t.Context(), honest, "", PullOptions{NewID: true, Meta: store.Meta{Name: "good"}})
		if err != nil {
			t.Fatal(err)
		}
		if got.ID == sn.ID || got.Spec.VM.Name != "web" || got.Meta.Name != "good" || !got.Means(sn.ManifestDigest) {
			t.Errorf("taken in as %s %q of VM %q", got.ID, got.Meta.Name, got.Spec.VM.Name)
		}
	}
	if all, err := b.Store.Index().Summaries(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
	rep, err := repair.Verify(t.Context(), b.Store, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) > 0 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
	nothingLeft(t, b)
}

func TestWhatIsOursIsNotTakenForAForeignOne(t *testing.T) {
	a := newMover(t)
	sn := publish(t, a, "first", nil)
	evil := squat(t, a, sn, sn.ManifestDigest)
	if got, err := a.ImportDir(t.Context(), evil, "", PullOptions{}); !errors.Is(err, failure.Conflict) {
		t.Fatalf("answered with %+v, %v", got, err)
	}
	got, err := a.ImportDir(t.Context(), evil, "", PullOptions{NewID: true})
	if err != nil || got.Spec.VM.Name != "squatter" || got.ID == sn.ID {
		t.Fatalf("taken in under a new id: %+v, %v", got, err)
	}
	same(t, a, sn, must(a.Store.Get(t.Context(), sn.ID)))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// counting is a registry that counts the blobs that were asked for since the last
// look.
func counting(t *testing.T) (host string, blobs func() int64) {
	t.Helper()
	var n atomic.Int64
	host = faulty(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			n.Add(1)
		}
		return false
	})
	return host, func() int64 { return n.Swap(0) }
}

// repacked moves all pages of a store to other packs.
func repacked(t *testing.T, m *Mover, id store.ID) *store.Snapshot {
	t.Helper()
	before := must(m.Store.Get(t.Context(), id))
	if _, err := gc.Collect(t.Context(), m.Store, gc.Options{Sources: []garbage.Source{vm.Garbage(m.Store), image.Garbage(m.Store), image.Pins(m.Store), image.Blobs(m.Store)}, Repack: &gc.Repack{Threshold: 1}, Grace: -1}); err != nil {
		t.Fatal(err)
	}
	now := must(m.Store.Get(t.Context(), id))
	if now.ManifestDigest == before.ManifestDigest {
		t.Fatal("the repack moved nothing")
	}
	return now
}

// thinned publishes two snapshots of which the second needs part of the first's
// packs only, and takes the first away: a repack has something to do.
func thinned(t *testing.T, m *Mover) *store.Snapshot {
	t.Helper()
	publishPages(t, m, "whole", 0, 300)
	sn := publishPages(t, m, "part", 10, 40)
	if err := m.Store.Remove(t.Context(), must(m.Store.Names().Resolve(t.Context(), "whole")), store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	return sn
}

func TestWhatAnOwnRepackMovedIsHere(t *testing.T) {
	a := newMover(t)
	sn := thinned(t, a)
	host, fetched := counting(t)
	target := host + "/web:v1"
	if _, err := a.Push(t.Context(), "part", target, true); err != nil {
		t.Fatal(err)
	}
	now := repacked(t, a, sn.ID)
	if len(now.Manifest.Annotations) > 0 {
		t.Errorf("the manifest speaks of itself: %v", now.Manifest.Annotations)
	}
	fetched()
	got, err := a.Pull(t.Context(), target, PullOptions{})
	if err != nil || got.ManifestDigest != now.ManifestDigest {
		t.Fatalf("pull of what it was: %+v, %v", got, err)
	}
	if n := fetched(); n > 1 { // its spec
		t.Errorf("%d blobs were fetched for what is here", n)
	}
}

func TestWhatAnotherRepackMovedIsFoundToBeTheSame(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := thinned(t, a)
	host, fetched := counting(t)
	if _, err := a.Push(t.Context(), "part", host+"/web:v1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pull(t.Context(), host+"/web:v1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	now := repacked(t, a, sn.ID)
	if _, err := a.Push(t.Context(), "part", host+"/web:v2", true); err != nil {
		t.Fatal(err)
	}
	fetched()
	for i, atMost := range []int64{100, 1} {
		got, err := b.Pull(t.Context(), host+"/web:v2", PullOptions{})
		if err != nil || got.ManifestDigest != sn.ManifestDigest || !got.Means(now.ManifestDigest) {
			t.Fatalf("pull %d of what was repacked there: %+v, %v", i, got, err)
		}
		if n := fetched(); n > atMost {
			t.Errorf("pull %d fetched %d blobs", i, n)
		}
	}
	nothingLeft(t, b)
}

// TestAnnotationsOfEarlierProgramsAreNotNeeded: a store in which an earlier
// program noted former digests in the manifest.
func TestAnnotationsOfEarlierProgramsAreNotNeeded(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := thinned(t, a)
	before := exported(t, a, "part")
	repacked(t, a, sn.ID)
	f := openLayout(t, exported(t, a, "part"))
	f.manifest.Annotations = map[string]string{"io.cocoon.manifest.former": string(sn.ManifestDigest)}
	f.save()
	old, err := b.ImportDir(t.Context(), f.dir, "", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.ImportDir(t.Context(), before, "", PullOptions{})
	if err != nil || got.ManifestDigest != old.ManifestDigest {
		t.Fatalf("what it was: %+v, %v", got, err)
	}
}

func TestANameIsNotDroppedWhereTheSnapshotIsHere(t *testing.T) {
	a, b := newMover(t), newMover(t)
	publish(t, a, "first", nil)
	dir := exported(t, a, "first")
	if _, err := b.ImportDir(t.Context(), dir, "", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	named := PullOptions{Meta: store.Meta{Name: "web", Labels: map[string]string{"a": "b"}}}
	for range 2 {
		got, err := b.ImportDir(t.Context(), dir, "", named)
		if err != nil || got.Meta.Name != "web" || got.Meta.Labels["a"] != "b" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	named.Meta.Name = "other"
	if _, err := b.ImportDir(t.Context(), dir, "", named); !errors.Is(err, failure.Conflict) || !strings.Contains(failure.HintOf(err), "rename web other") {
		t.Errorf("a second name: %v (hint %q)", err, failure.HintOf(err))
	}
}

// TestPagesThatArePromisedAreNotTakenForPages: a squatter whose packs say that they
// hold the honest one's pages, and do not.
func TestPagesThatArePromisedAreNotTakenForPages(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := publishPages(t, a, "first", 0, 40)
	honest := exported(t, a, "first")
	f := openLayout(t, exported(t, a, "first"))
	l := layerOf(f, store.MediaTypePack)
	data := must(os.ReadFile(f.path(l.Digest)))
	data[len(data)/4] ^= 1 // in a frame: the index stays what it is
	*l = f.blob(store.MediaTypePack, data)
	pages := must(pack.DecodeMap(t.Context(), must(os.ReadFile(f.path(f.spec.Memory[0].Map))), keyring.None()))
	pages.Packs = []digest.Digest{l.Digest}
	m := layerOf(f, store.MediaTypePageMap)
	*m = f.blob(store.MediaTypePageMap, must(pages.Encode()))
	f.spec.Memory[0].Map = m.Digest
	f.save()
	if _, err := b.ImportDir(t.Context(), f.dir, "", PullOptions{}); !errors.Is(err, failure.Damaged) {
		t.Fatalf("it is taken in: %v", err)
	}
	got, err := b.ImportDir(t.Context(), honest, "", PullOptions{})
	if err != nil || got.ID != sn.ID {
		t.Fatal(err)
	}
	if err := readPages(t.Context(), b.Store, got); err != nil {
		t.Error(err)
	}
}

// TestPullsOfOneSnapshotBesideEachOther all get it.
func TestPullsOfOneSnapshotBesideEachOther(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := publish(t, a, "first", nil)
	target := serve(t) + "/web:v1"
	if _, err := a.Push(t.Context(), "first", target, true); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			got, err := b.Pull(t.Context(), target, PullOptions{Meta: store.Meta{Name: "web"}})
			if err == nil && (got.ID != sn.ID || got.Meta.Name != "web") {
				err = fmt.Errorf("got %s %q", got.ID, got.Meta.Name)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	same(t, b, sn, must(b.Store.Get(t.Context(), sn.ID)))
}

// TestADamagedSquatterKeepsNobodyOut: what is here under the id cannot be read.
func TestADamagedSquatterKeepsNobodyOut(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := publish(t, a, "first", nil)
	honest := exported(t, a, "first")
	squatter, err := b.ImportDir(t.Context(), squat(t, a, sn, sn.ManifestDigest), "", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.Store.BlobPath(squatter.Manifest.Config.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ImportDir(t.Context(), honest, "", PullOptions{}); !errors.Is(err, failure.Conflict) || failure.HintOf(err) == "" {
		t.Fatalf("beside a damaged one: %v (hint %q)", err, failure.HintOf(err))
	}
	got, err := b.ImportDir(t.Context(), honest, "", PullOptions{NewID: true})
	if err != nil || got.Spec.VM.Name != "web" || got.ID == sn.ID {
		t.Fatalf("under a new id: %+v, %v", got, err)
	}
}

// TestAnEncryptedSnapshotGetsANewIDUnderItsKey: the key vouches for the spec, in
// which the id stands.
func TestAnEncryptedSnapshotGetsANewIDUnderItsKey(t *testing.T) {
	key := keyring.FromSecret([32]byte{1})
	a, with, without := newMoverWith(t, keyring.FromKeys(key)), newMoverWith(t, keyring.FromKeys(key)), newMover(t)
	sn := publish(t, a, "first", nil)
	honest := exported(t, a, "first")
	plain := newMover(t)
	publish(t, plain, "other", nil)
	f := openLayout(t, exported(t, plain, "other"))
	f.spec.ID = sn.ID
	f.save()
	for name, m := range map[string]*Mover{"with": with, "without": without} {
		if _, err := m.ImportDir(t.Context(), f.dir, "", PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ImportDir(t.Context(), honest, "", PullOptions{}); !errors.Is(err, failure.Conflict) {
			t.Errorf("%s key: %v, want a conflict", name, err)
		}
	}
	if _, err := without.ImportDir(t.Context(), honest, "", PullOptions{NewID: true}); !keyring.IsMissing(err) {
		t.Errorf("without its key: %v", err)
	}
	nothingLeft(t, without)
	got, err := with.ImportDir(t.Context(), honest, "", PullOptions{NewID: true})
	if err != nil || got.ID == sn.ID || got.Spec.Key != sn.Spec.Key {
		t.Fatalf("with its key: %+v, %v", got, err)
	}
	same(t, with, got, got)
	if _, err := contents.Of(with.Store, got).Memory(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

package repair_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/repair"
)

// countdown is a context that is cancelled when it was looked at n times.
type countdown struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func interruptedAfter(ctx context.Context, n int64) *countdown {
	ctx, cancel := context.WithCancel(ctx)
	c := &countdown{Context: ctx, cancel: cancel}
	c.left.Store(n)
	return c
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// TestAnInterruptedVerifyFindsNoDamage, wherever it is interrupted: nothing that
// is sound is called damaged or put into quarantine.
func TestAnInterruptedVerifyFindsNoDamage(t *testing.T) {
	s := open(t, folder(t))
	id := storetest.MustPublish(t, s, "one", storetest.Image(1, 30)).ID
	for n := int64(0); ; n++ { // twice each look, with quarantine and without
		s, err := store.Open(t.Context(), s.Root(), store.Options{}) // which remembers no page map
		if err != nil {
			t.Fatal(err)
		}
		ctx := interruptedAfter(t.Context(), n/2)
		rep, err := repair.Verify(ctx, s, nil, repair.VerifyOptions{ReadData: true, Quarantine: n%2 == 0})
		ctx.cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at look %d: %v", n, err)
		}
		if err == nil && len(rep.Damaged) > 0 {
			t.Fatalf("interrupted at look %d: %+v", n, rep.Damaged)
		}
		if sn, err := s.Get(t.Context(), id); err != nil || sn.Usable() != nil {
			t.Fatalf("interrupted at look %d: %v, %v", n, err, sn.Usable())
		}
		if err == nil {
			t.Logf("it looks %d times", n)
			return
		}
	}
}

// TestAFolderWithoutAManifestKeepsNoOtherFromBeingVerified: half of a backup is back.
func TestAFolderWithoutAManifestKeepsNoOtherFromBeingVerified(t *testing.T) {
	s := open(t, folder(t))
	storetest.MustPublish(t, s, "one", storetest.Image(1, 30))
	alone, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(alone.Damaged) > 0 {
		t.Fatalf("%+v, %v", alone, err)
	}
	const half = store.ID("00000000000000000000000000000000")
	if err := os.Mkdir(s.Path("snapshots", string(half)), 0o700); err != nil {
		t.Fatal(err)
	}
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true, Quarantine: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Damaged) != 1 || rep.Damaged[0].Object != "snapshot "+string(half) || rep.BytesRead != alone.BytesRead || len(rep.Quarantined) > 0 {
		t.Errorf("%+v, without the folder %+v", rep, alone)
	}
	if _, err := repair.Verify(t.Context(), s, []store.ID{half}, repair.VerifyOptions{}); !errors.Is(err, failure.NotFound) {
		t.Errorf("asked for by its id: %v", err)
	}
}

// TestWhatIsPublishedIsSound, and all of it is read.
func TestWhatIsPublishedIsSound(t *testing.T) {
	s := open(t, folder(t))
	storetest.MustPublish(t, s, "first", storetest.Image(1, 30))
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) != 0 || rep.Checked < 5 || rep.BytesRead == 0 {
		t.Errorf("verify: %+v %v", rep, err)
	}
}

// TestADiskIsAsLargeAsItsPageMap: snapshots of grown disks were published with
// the size that the VM was made with. Nothing of them is lost.
func TestADiskIsAsLargeAsItsPageMap(t *testing.T) {
	s, ram := open(t, folder(t)), storetest.Image(1, 30)
	l := storetest.Lease(t, s)
	for name, say := range map[string]func(*store.Spec){
		"disk": func(sp *store.Spec) { sp.Disks = []store.Disk{{Index: 3, Bytes: 4096, Map: sp.Memory[0].Map}} },
		"ram":  func(sp *store.Spec) { sp.Memory[0].Bytes = 4096 },
	} {
		sn, err := storetest.PublishSaying(t.Context(), s, l, store.Meta{Name: name}, ram, say)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := repair.Verify(t.Context(), s, []store.ID{sn.ID}, repair.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if name == "ram" {
			if len(rep.Damaged) != 1 || !strings.HasPrefix(rep.Damaged[0].Object, "RAM at 0x0") || len(rep.Resized) != 0 {
				t.Errorf("RAM of another size: %+v", rep)
			}
			continue
		}
		want := []repair.Resized{{sn.ID, 3, 4096, int64(len(ram))}}
		if len(rep.Damaged) != 0 || !slices.Equal(rep.Resized, want) {
			t.Errorf("a disk of another size: %+v, want %+v", rep, want)
		}
		im, err := contents.Of(s, sn).Disk(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if im.Bytes() != int64(len(ram)) {
			t.Errorf("opened with %d bytes", im.Bytes())
		}
		im.Close()
	}
}

// TestALostMetaIsDamage of its snapshot, of which all else is read.
func TestALostMetaIsDamage(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"torn":    func(path string) error { return os.WriteFile(path, []byte(`{"na`), 0o600) },
	} {
		s := open(t, folder(t))
		sn := storetest.MustPublish(t, s, "here", storetest.Image(1, 9))
		if err := lose(filepath.Join(sn.Dir, "meta.json")); err != nil {
			t.Fatal(err)
		}
		rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
		if err != nil || len(rep.Damaged) != 1 || rep.Damaged[0].Object != repair.MetaObject+string(sn.ID) || rep.BytesRead == 0 {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
	}
}

func TestQuarantineMarksExactlyWhatIsAffected(t *testing.T) {
	s := open(t, folder(t))
	hit, sound := storetest.MustPublish(t, s, "hit", storetest.Image(1, 9)), storetest.MustPublish(t, s, "sound", storetest.Image(2, 9))
	storetest.Harm(t, s.BlobPath(storetest.PackOf(t, hit)), flip(60))
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true, Quarantine: true})
	if err != nil || len(rep.Quarantined) != 1 || rep.Quarantined[0] != hit.ID {
		t.Fatalf("%+v %v", rep, err)
	}
	for id, want := range map[store.ID]store.State{hit.ID: store.Quarantined, sound.ID: store.Ready} {
		sn, err := s.Get(t.Context(), id)
		if err != nil || sn.State != want || (sn.Usable() == nil) != (want == store.Ready) {
			t.Errorf("snapshot %s is %s, want %s (%v)", id, sn.State, want, err)
		}
	}
	all, err := s.Index().Summaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		if want := map[store.ID]store.State{hit.ID: store.Quarantined, sound.ID: store.Ready}[x.ID]; x.State != want {
			t.Errorf("listed as %s, want %s", x.State, want)
		}
	}
	if err := repair.Release(t.Context(), s, hit.ID); err != nil {
		t.Fatal(err)
	}
	if sn, err := s.Get(t.Context(), hit.ID); err != nil || sn.Usable() != nil {
		t.Errorf("released, and still %s (%v)", sn.State, err)
	}
}

// TestTheSlicesTogetherReadEverythingOnce: 1/t … t/t.
func TestTheSlicesTogetherReadEverythingOnce(t *testing.T) {
	s := open(t, folder(t))
	for i := range 12 {
		storetest.MustPublish(t, s, "", storetest.Image(i, 5))
	}
	whole, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for n := 1; n <= 5; n++ {
		rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true, Part: n, Parts: 5})
		if err != nil || rep.BytesRead == 0 || rep.BytesRead == whole.BytesRead {
			t.Errorf("slice %d/5: %d of %d bytes, %v", n, rep.BytesRead, whole.BytesRead, err)
		}
		sum += rep.BytesRead
	}
	if sum != whole.BytesRead {
		t.Errorf("the slices read %d bytes, everything is %d", sum, whole.BytesRead)
	}
}

func TestDamageIsNamedWithTheSnapshotsItAffects(t *testing.T) {
	s := open(t, folder(t))
	one, two := storetest.MustPublish(t, s, "one", storetest.Image(1, 9)), storetest.MustPublish(t, s, "two", storetest.Image(1, 9))
	var pack digest.Digest
	for _, l := range one.Manifest.Layers {
		if l.MediaType == store.MediaTypePack {
			pack = l.Digest
		}
	}
	b, err := os.ReadFile(s.BlobPath(pack))
	if err != nil {
		t.Fatal(err)
	}
	b[10] ^= 1
	os.Chmod(s.BlobPath(pack), 0o600)
	if err := os.WriteFile(s.BlobPath(pack), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{}); err != nil || len(rep.Damaged) != 0 {
		t.Errorf("structure alone: %+v %v", rep, err)
	}
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) != 1 || len(rep.Damaged[0].Affects) != 2 {
		t.Fatalf("%+v %v", rep, err)
	}
	if err := os.Remove(s.BlobPath(two.Spec.CHState)); err != nil {
		t.Fatal(err)
	}
	if rep, err = repair.Verify(t.Context(), s, []store.ID{two.ID}, repair.VerifyOptions{}); err != nil || len(rep.Damaged) != 1 {
		t.Errorf("missing blob: %+v %v", rep, err)
	}
}

// A slice that is none has no blobs, and would find no damage in any store.
func TestASliceThatIsNoneVerifiesNothing(t *testing.T) {
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []repair.VerifyOptions{{Parts: 3}, {Part: 4, Parts: 3}, {Part: -1, Parts: 3}, {Parts: -1}, {Part: 1, Parts: -1}} {
		o.ReadData = true
		if _, err := repair.Verify(t.Context(), s, nil, o); !errors.Is(err, failure.Usage) {
			t.Errorf("%d of %d: %v, want Usage", o.Part, o.Parts, err)
		}
	}
	for _, o := range []repair.VerifyOptions{{}, {Part: 3, Parts: 3}} {
		if _, err := repair.Verify(t.Context(), s, nil, o); err != nil {
			t.Errorf("%d of %d: %v", o.Part, o.Parts, err)
		}
	}
}

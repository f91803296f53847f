package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/inmemory"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/repair"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(inmemory.Tests(m), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func newMover(t testing.TB) *Mover { return newMoverWith(t, nil) }

func newMoverWith(t testing.TB, keys *keyring.Ring) *Mover {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true, Keys: keys, Veto: func(context.Context, *store.Store, store.ID) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return &Mover{Store: st, Images: image.New(st)}
}

// guestRAM is that of the VM whose documents publish takes, bytes.
const guestRAM = 128 << 20

// sparse is a file of so many bytes that begins with these.
func sparse(t testing.TB, begin []byte, bytes int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "ram"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(begin)
	if err = errors.Join(err, f.Truncate(bytes)); err != nil {
		t.Fatal(err)
	}
	return f
}

// publish makes a small snapshot that stands on a kernel image.
func publish(t testing.TB, m *Mover, name string, change func(*store.Spec, *vm.Record)) *store.Snapshot {
	t.Helper()
	ram := bytes.Repeat([]byte("page of "+name), 1<<16)
	return publishRAM(t, m, name, ram[:len(ram)/4096*4096], change)
}

// publishPages is publish with RAM that does not compress: the pages from to to
// of a guest, which are not stored again where they are known.
func publishPages(t testing.TB, m *Mover, name string, from, to int) *store.Snapshot {
	t.Helper()
	var ram []byte
	for p := from; p < to; p++ {
		page := make([]byte, 4096)
		r := rand.NewChaCha8([32]byte{byte(p), byte(p >> 8)})
		r.Read(page)
		ram = append(ram, page...)
	}
	return publishRAM(t, m, name, ram, nil)
}

func publishRAM(t testing.TB, m *Mover, name string, ram []byte, change func(*store.Spec, *vm.Record)) *store.Snapshot {
	t.Helper()
	ctx := t.Context()
	l, err := m.Store.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, append([]byte("\x7fELF"), make([]byte, 200<<10)...), 0o600); err != nil {
		t.Fatal(err)
	}
	ref, err := m.Images.Blob(ctx, l, kernel, "kernel")
	if err != nil {
		t.Fatal(err)
	}
	in, err := m.Store.Ingest(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	file := sparse(t, ram, guestRAM)
	w := in.Pages(ctx, ref)
	iw := w.Image(guestRAM, nil)
	if err := iw.ReadFrom(ctx, file, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	pages, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	md, err := in.PutMap(ctx, pages)
	if err != nil {
		t.Fatal(err)
	}
	put := func(media, file string) store.Descriptor {
		b, err := os.ReadFile(filepath.Join("..", "..", "..", "chsnap", "testdata", "v53.0", file))
		if err != nil {
			t.Fatal(err)
		}
		d, err := in.Put(ctx, media, b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	sp := store.Spec{
		CHConfig: put(store.MediaTypeCHConfig, "plain-128m/config.json").Digest,
		CHState:  put(store.MediaTypeCHState, "plain-128m/state.json").Digest,
		VM:       store.VMRef{ID: "vm", Name: "web"}, CPUs: 1, Images: []store.ImageRef{ref},
		Memory: []store.MemoryRange{{GPA: 0, Bytes: guestRAM, Map: md.Digest}},
	}
	rec := vm.Record{Name: "web", CPUs: 1, MemoryBytes: guestRAM, Kernel: &ref}
	if change != nil {
		change(&sp, &rec)
	}
	if sp.Record, err = json.Marshal(rec); err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(ctx, sp, store.Meta{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

func quiet() ggcr.Option { return ggcr.Logger(log.New(io.Discard, "", 0)) }

func serve(t *testing.T, o ...ggcr.Option) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(append(o, quiet())...))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// same holds that the copy has the same manifest, is whole, and brought what it
// stands on.
func same(t *testing.T, m *Mover, from, got *store.Snapshot) {
	t.Helper()
	if got.ID != from.ID || got.ManifestDigest != from.ManifestDigest {
		t.Fatalf("got %s %s, want %s %s", got.ID, got.ManifestDigest, from.ID, from.ManifestDigest)
	}
	rep, err := repair.Verify(t.Context(), m.Store, []store.ID{got.ID}, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) > 0 {
		t.Fatalf("verify: %+v, %v", rep, err)
	}
	for _, im := range got.Spec.Images {
		if _, err := os.Stat(m.Images.Path(im.Digest)); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t, m)
}

func nothingLeft(t testing.TB, m *Mover) {
	t.Helper()
	for _, dir := range []string{"leases", "ingest"} {
		left, err := os.ReadDir(m.Store.Path(dir))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: %v left, %v", dir, left, err)
		}
	}
}

func TestASnapshotKeepsItsDigestThroughARegistry(t *testing.T) {
	for name, option := range map[string]ggcr.Option{"referrers API": ggcr.WithReferrersSupport(true), "tag instead": ggcr.WithReferrersSupport(false)} {
		t.Run(name, func(t *testing.T) {
			a, b := newMover(t), newMover(t)
			sn := publish(t, a, "first", nil)
			target := serve(t, option) + "/vm/web:v1"
			sent, err := a.Push(t.Context(), "first", target, true)
			if err != nil {
				t.Fatal(err)
			}
			if sent.SentBytes != sent.Bytes || sent.Digest != string(sn.ManifestDigest) {
				t.Errorf("first push: %+v", sent)
			}
			got, err := b.Pull(t.Context(), target, PullOptions{Meta: store.Meta{Name: "copy"}})
			if err != nil {
				t.Fatal(err)
			}
			same(t, b, sn, got)
			if got.Meta.Name != "copy" {
				t.Errorf("name %q", got.Meta.Name)
			}
			if again, err := b.Pull(t.Context(), target, PullOptions{}); err != nil || again.ID != got.ID {
				t.Errorf("pull of what is here: %v", err)
			}
			if again, err := a.Push(t.Context(), "first", target, true); err != nil || again.SentBytes != 0 {
				t.Errorf("push of what is there: %+v, %v", again, err)
			}
			nothingLeft(t, a)
		})
	}
}

func TestASnapshotKeepsItsDigestThroughALayout(t *testing.T) {
	a := newMover(t)
	sn := publish(t, a, "first", nil)
	dir, file := filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "layout.tar")
	if _, err := a.ExportDir(t.Context(), "first", dir, true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ExportTarFile(t.Context(), "first", file, true); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"folder": dir, "file": file} {
		if _, err := a.ExportDir(t.Context(), "first", path, true); !errors.Is(err, failure.Conflict) {
			t.Errorf("%s that exists: %v", name, err)
		}
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o600 {
		t.Errorf("the archive has mode %v: RAM holds secrets", st.Mode())
	}
	for name, take := range map[string]func(*Mover) (*store.Snapshot, error){
		"folder": func(m *Mover) (*store.Snapshot, error) { return m.ImportDir(t.Context(), dir, "", PullOptions{}) },
		"tar": func(m *Mover) (*store.Snapshot, error) {
			return m.ImportFile(t.Context(), file, "first", PullOptions{})
		},
		"stream": func(m *Mover) (*store.Snapshot, error) {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return m.ImportStream(t.Context(), f, "", PullOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newMover(t)
			got, err := take(b)
			if err != nil {
				t.Fatal(err)
			}
			same(t, b, sn, got)
		})
	}
}

// TestWhatCannotBeTrustedIsRefused: each damage to a layout, or each wish of
// its maker, gives an error of the right class and leaves no snapshot.
func TestWhatCannotBeTrustedIsRefused(t *testing.T) {
	spoil := func(pick func(sn *store.Snapshot) string, change func(b []byte) []byte) func(*testing.T, *store.Snapshot, string) {
		return func(t *testing.T, sn *store.Snapshot, dir string) {
			path := filepath.Join(dir, "blobs", "sha256", pick(sn))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	layer := func(media string) func(*store.Snapshot) string {
		return func(sn *store.Snapshot) string {
			for _, l := range sn.Manifest.Layers {
				if l.MediaType == media {
					return l.Digest.Encoded()
				}
			}
			return "none"
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	short := func(b []byte) []byte { return b[:len(b)-1] }
	long := func(b []byte) []byte { return append(b, 0) }
	for name, tc := range map[string]struct {
		change func(*store.Spec, *vm.Record)
		spoil  func(*testing.T, *store.Snapshot, string)
		want   error
	}{
		"pack with a flipped bit":  {spoil: spoil(layer(store.MediaTypePack), flip), want: failure.Damaged},
		"pack that is short":       {spoil: spoil(layer(store.MediaTypePack), short), want: failure.Damaged},
		"pack that is long":        {spoil: spoil(layer(store.MediaTypePack), long), want: failure.Damaged},
		"page map with a bit":      {spoil: spoil(layer(store.MediaTypePageMap), flip), want: failure.Damaged},
		"image with a flipped bit": {spoil: spoil(func(sn *store.Snapshot) string { return sn.Spec.Images[0].Digest.Encoded() }, flip), want: failure.Damaged},
		"no layout file": {spoil: func(t *testing.T, _ *store.Snapshot, dir string) {
			if err := os.Remove(filepath.Join(dir, "oci-layout")); err != nil {
				t.Fatal(err)
			}
		}, want: failure.Damaged},
		"blob that is a link out": {spoil: func(t *testing.T, sn *store.Snapshot, dir string) {
			path := filepath.Join(dir, "blobs", "sha256", layer(store.MediaTypePack)(sn))
			if err := errors.Join(os.Rename(path, dir+".pack"), os.Symlink(dir+".pack", path)); err != nil {
				t.Fatal(err)
			}
		}},
		"arguments for the VMM":          {change: func(_ *store.Spec, r *vm.Record) { r.ExtraArgs = []string{"--fs", "tag=x"} }, want: failure.Incompatible},
		"config of the VMM that is none": {change: func(sp *store.Spec, _ *vm.Record) { sp.CHConfig = sp.Memory[0].Map }, want: failure.Damaged},
		"map that is none":               {change: func(sp *store.Spec, _ *vm.Record) { sp.Memory[0].Map = sp.CHConfig }, want: failure.Damaged},
		"record on an image that the snapshot does not name": {change: func(_ *store.Spec, r *vm.Record) {
			r.Initramfs = &store.ImageRef{Digest: digest.FromString("another VM's secret"), Role: "initramfs"}
		}, want: failure.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newMover(t), newMover(t)
			sn := publish(t, a, "first", tc.change)
			dir := filepath.Join(t.TempDir(), "layout")
			if _, err := a.ExportDir(t.Context(), "first", dir, true); err != nil {
				t.Fatal(err)
			}
			if tc.spoil != nil {
				tc.spoil(t, sn, dir)
			}
			_, err := b.ImportDir(t.Context(), dir, "", PullOptions{})
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if all, _ := b.Store.Index().Summaries(t.Context()); len(all) > 0 {
				t.Errorf("published all the same: %+v", all)
			}
			nothingLeft(t, b)
		})
	}
}

func TestImagesCanStayBehind(t *testing.T) {
	a, b := newMover(t), newMover(t)
	sn := publish(t, a, "first", nil)
	target := serve(t) + "/web:v1"
	if _, err := a.Push(t.Context(), "first", target, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pull(t.Context(), target, PullOptions{}); !errors.Is(err, failure.NotFound) || !strings.Contains(err.Error(), "image blob") {
		t.Fatalf("pull without the images: %v", err)
	}
	publish(t, b, "other", nil) // stands on the same kernel
	got, err := b.Pull(t.Context(), target, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, b, sn, got)
}

func TestRefusalsOfReferences(t *testing.T) {
	m := newMover(t)
	publish(t, m, "first", nil)
	publish(t, m, "other", nil)
	host := serve(t)
	for name, tc := range map[string]struct {
		do   func() error
		want error
	}{
		"push without tag": {func() error { _, err := m.Push(t.Context(), "first", host+"/web", true); return err }, failure.Usage},
		"push to nonsense": {func() error { _, err := m.Push(t.Context(), "first", "no reference", true); return err }, failure.Usage},
		"push of nothing":  {func() error { _, err := m.Push(t.Context(), "nothing", host+"/web:v1", true); return err }, failure.NotFound},
		"pull of nothing":  {func() error { _, err := m.Pull(t.Context(), host+"/web:v1", PullOptions{}); return err }, failure.NotFound},
		"name that is taken": {func() error {
			if _, err := m.Push(t.Context(), "first", host+"/web:v2", true); err != nil {
				return err
			}
			_, err := m.Pull(t.Context(), host+"/web:v2", PullOptions{Meta: store.Meta{Name: "other"}})
			return err
		}, failure.Conflict},
		"import of nothing": {func() error { _, err := m.ImportFile(t.Context(), "nowhere.tar", "", PullOptions{}); return err }, failure.NotFound},
		"import of no tar": {func() error {
			_, err := m.ImportStream(context.Background(), strings.NewReader("not a tar"), "", PullOptions{})
			return err
		}, failure.Damaged},
	} {
		if err := tc.do(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	nothingLeft(t, m)
}

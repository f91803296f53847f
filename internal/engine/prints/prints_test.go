package prints

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// host has the key of this boot; boot names it, "" is none.
type host struct {
	*store.Store
	key Key
}

func newHost(t *testing.T, root, boot string) *host {
	t.Helper()
	st, err := store.Open(t.Context(), root, store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Store: st}
	if boot != "" {
		h.key = func(context.Context) (*fingerprint.Key, error) {
			return fingerprint.New([fingerprint.SecretBytes]byte{7}, boot)
		}
	}
	return h
}

// ram is one of pages with distinct contents, seed by seed.
func ram(seed, pages int) []byte {
	b := make([]byte, pages*pack.PageSize)
	for p := range pages {
		if p%3 != 2 {
			copy(b[p*pack.PageSize:], fmt.Sprintf("page %d of %d", p, seed))
		}
	}
	return b
}

func lease(t *testing.T, s *host) *store.Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	return l
}

// ramRange is RAM at an address.
type ramRange struct {
	gpa uint64
	ram []byte
}

// capture publishes a VM's RAM as captures do.
func capture(t *testing.T, s *host, vm string, parent *store.Snapshot, rams ...ramRange) *store.Snapshot {
	t.Helper()
	l := lease(t, s)
	defer l.Release()
	in, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	set := Begin(s.Store, in, s.key)
	defer set.Close()
	w := in.Pages(t.Context())
	var images []*packer.ImageWriter
	for _, r := range rams {
		im, pageMap := parentImage(t, s, parent, r.gpa)
		iw := w.Image(uint64(len(r.ram)), im)
		set.Of(t.Context(), iw, pageMap)
		images = append(images, iw)
		if err := iw.ReadFrom(t.Context(), bytes.NewReader(r.ram), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ranges []store.MemoryRange
	for i, iw := range images {
		d, err := in.PutImage(t.Context(), iw)
		if err != nil {
			t.Fatal(err)
		}
		set.Mapped(iw, d.Digest)
		ranges = append(ranges, store.MemoryRange{GPA: rams[i].gpa, Bytes: uint64(len(rams[i].ram)), Map: d.Digest})
	}
	cfg, err := in.Put(t.Context(), store.MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := in.Put(t.Context(), store.MediaTypeCHState, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	sp := store.Spec{Record: []byte("{}"), CHConfig: cfg.Digest, CHState: st.Digest, VM: store.VMRef{ID: vm, Name: vm}, Memory: ranges}
	if parent != nil {
		sp.Parent = parent.ID
	}
	sn, err := in.Commit(t.Context(), sp, store.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	set.Keep(t.Context(), sn)
	return sn
}

func parentImage(t *testing.T, s *host, parent *store.Snapshot, gpa uint64) (*pack.Image, digest.Digest) {
	t.Helper()
	if parent == nil {
		return nil, ""
	}
	i := slices.IndexFunc(parent.Spec.Memory, func(r store.MemoryRange) bool { return r.GPA == gpa })
	im, err := contents.Of(s, parent).Memory(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im, parent.Spec.Memory[i].Map
}

// holds checks the RAM of a snapshot.
func holds(t *testing.T, s *host, sn *store.Snapshot, rams ...ramRange) {
	t.Helper()
	for i, r := range rams {
		im, err := contents.Of(s, sn).Memory(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(im, 0, im.Bytes()))
		if err != nil || !bytes.Equal(got, r.ram) {
			t.Errorf("RAM at %#x differs (%v)", r.gpa, err)
		}
		im.Close()
	}
}

// kept are the files of cache/fingerprints, printsOf those of a snapshot.
func kept(t *testing.T, s *host) []string {
	t.Helper()
	all, err := filepath.Glob(s.Path("cache", "fingerprints", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func printsOf(s *host, sn *store.Snapshot) []string {
	var all []string
	for _, r := range sn.Spec.Memory {
		all = append(all, Path(s.Store, r.Map))
	}
	slices.Sort(all)
	return all
}

// forgePrints puts prints of other RAM in the place of a snapshot's: what then is
// taken for unchanged shows where prints are believed.
func forgePrints(t *testing.T, s *host, sn *store.Snapshot, with *store.Snapshot) {
	t.Helper()
	for i, r := range sn.Spec.Memory {
		b, err := os.ReadFile(Path(s.Store, with.Spec.Memory[i].Map))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(Path(s.Store, r.Map), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const high = 4 << 30

// A capture leaves prints, the next one of the VM uses them, image by image, and
// takes their place.
func TestPrintsFollowTheVM(t *testing.T) {
	s := newHost(t, filepath.Join(t.TempDir(), "root"), "a boot")
	low1, high1 := ramRange{0, ram(1, 30)}, ramRange{high, ram(2, 41)}
	first := capture(t, s, "web", nil, low1, high1)
	if all := kept(t, s); !slices.Equal(all, printsOf(s, first)) {
		t.Fatalf("after a capture: %v", all)
	}
	low2, high2 := ramRange{0, ram(3, 30)}, ramRange{high, slices.Clone(high1.ram)}
	copy(high2.ram[4096:], "changed")
	second := capture(t, s, "web", first, low2, high2)
	holds(t, s, second, low2, high2)
	if all := kept(t, s); !slices.Equal(all, printsOf(s, second)) {
		t.Errorf("after the next one: %v", all)
	}
	low3 := ramRange{0, ram(4, 30)}
	third := capture(t, s, "web", second, low3, high2)
	// What did not change at all may keep its map, and then its prints.
	if all := kept(t, s); !slices.Equal(all, printsOf(s, third)) {
		t.Errorf("after one that changed half of it: %v", all)
	}
	// Prints are believed: with those of the first RAM in the place of the third's,
	// the first RAM counts as unchanged.
	forgePrints(t, s, third, capture(t, s, "other", nil, low1, high1))
	holds(t, s, capture(t, s, "web", third, low1, high1), low3, high2)
}

// Another VM that stands on a snapshot leaves the prints to the next.
func TestClonesShareTheirParentsPrints(t *testing.T) {
	s := newHost(t, filepath.Join(t.TempDir(), "root"), "a boot")
	base := ramRange{0, ram(1, 30)}
	parent := capture(t, s, "web", nil, base)
	for _, name := range []string{"clone-1", "clone-2"} {
		changed := ramRange{0, slices.Clone(base.ram)}
		copy(changed.ram, name)
		holds(t, s, capture(t, s, name, parent, changed), changed)
		if _, err := os.Stat(printsOf(s, parent)[0]); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// Prints of an earlier boot, of a damaged file or of none are not believed, and a
// store without a key makes none.
func TestPrintsThatAreOfNoUse(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := newHost(t, root, "a boot")
	old, changed := ramRange{0, ram(1, 30)}, ramRange{0, ram(2, 30)}
	for name, spoil := range map[string]func(path string) error{
		"missing":   os.Remove,
		"cut":       func(path string) error { return os.Truncate(path, 20) },
		"no header": func(path string) error { return os.WriteFile(path, make([]byte, 8192), 0o600) },
		"a folder":  func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		parent := capture(t, s, "web", nil, old)
		forgePrints(t, s, parent, capture(t, s, "other", nil, changed))
		path := printsOf(s, parent)[0]
		if err := spoil(path); err != nil {
			t.Fatal(name, err)
		}
		holds(t, s, capture(t, s, "web", parent, changed), changed)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(name, err)
		}
	}
	parent := capture(t, s, "web", nil, old)
	forgePrints(t, s, parent, capture(t, s, "other", nil, changed))
	later := newHost(t, root, "a later boot")
	holds(t, later, capture(t, later, "web", parent, changed), changed)

	none := newHost(t, filepath.Join(t.TempDir(), "root"), "")
	holds(t, none, capture(t, none, "web", capture(t, none, "web", nil, old), changed), changed)
	if all := kept(t, none); len(all) > 0 {
		t.Errorf("a store without a key has %v", all)
	}
}

// Prints that lack something are not kept, nor are those of an image that did not
// become a part of the snapshot.
func TestPrintsThatFailAreDropped(t *testing.T) {
	s := newHost(t, filepath.Join(t.TempDir(), "root"), "a boot")
	sn := capture(t, newHost(t, s.Root(), ""), "other", nil, ramRange{0, ram(1, 3)})
	in, err := s.Ingest(t.Context(), lease(t, s))
	if err != nil {
		t.Fatal(err)
	}
	set := Begin(s.Store, in, s.key)
	w := in.Pages(t.Context())
	broken, unused := w.Image(1<<20, nil), w.Image(1<<20, nil)
	set.Of(t.Context(), broken, "")
	set.Of(t.Context(), unused, "")
	p := set.of[broken]
	p.pageMap = sn.Spec.Memory[0].Map
	if _, err := (noting{brokenWriter{}, &p.failed}).WriteAt(nil, 0); err == nil {
		t.Error("the error is lost")
	}
	set.Keep(t.Context(), sn)
	if all := kept(t, s); len(all) > 0 {
		t.Errorf("were kept: %v", all)
	}
	set.Close()
	if err := in.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.own.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("given up, and %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no space") }

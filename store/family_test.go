package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
)

const siblingBytes = 16 << 20

// publishGuest publishes the RAM of a guest that stands on a disk image, and
// gives the snapshot and the share of its pages that were reused.
func publishGuest(t *testing.T, s *Store, name string, ram *ramgen.Image, image string) (*Snapshot, float64) {
	t.Helper()
	ctx := t.Context()
	l, err := s.Lease(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	ref := ImageRef{Digest: digest.FromString(image), Role: "disk", Bytes: int64(len(image))}
	if err := os.WriteFile(s.ImageBlobPath(ref.Digest), []byte(image), 0o400); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	w := in.Pages(ctx, ref, ImageRef{Digest: digest.FromString("kernel"), Role: "kernel"})
	iw := w.Image(uint64(ram.Bytes()), nil)
	if err := iw.ReadFrom(ctx, ram, nil); err != nil {
		t.Fatal(err)
	}
	stats, err := w.Flush(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	md, err := in.PutMap(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := in.Put(ctx, MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(ctx, Spec{
		Record: []byte("{}"), CHConfig: cfg.Digest, CHState: cfg.Digest, VM: VMRef{ID: name, Name: name}, Images: []ImageRef{ref},
		Memory: []MemoryRange{{Bytes: uint64(ram.Bytes()), Map: md.Digest}},
	}, Meta{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return sn, float64(stats.PagesReused) / float64(stats.PagesNew+stats.PagesReused)
}

// Two VMs of one image share at least 55 % of the pages that are not zero,
// wherever they stand; VMs of different images share nothing of each other.
func TestGuestsOfOneImageSharePages(t *testing.T) {
	s := openTest(t)
	first := ramgen.New(siblingBytes, 1)
	_, alone := publishGuest(t, s, "first", first, "debian")
	sn, share := publishGuest(t, s, "second", first.Sibling(2), "debian")
	if share < 0.55 {
		t.Errorf("the second guest reuses %.2f of its pages, want at least 0.55", share)
	}
	checkRAM(t, s, sn, first.Sibling(2))
	if _, stranger := publishGuest(t, s, "third", ramgen.New(siblingBytes, 3), "alpine"); stranger > alone+0.02 {
		t.Errorf("a guest of another image reuses %.2f of its pages, one alone in the store %.2f", stranger, alone)
	}
}

func checkRAM(t *testing.T, s *Store, sn *Snapshot, want *ramgen.Image) {
	t.Helper()
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got, err := io.ReadAll(io.NewSectionReader(im, 0, im.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	ram, err := io.ReadAll(io.NewSectionReader(want, 0, want.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(ram) {
		t.Error("RAM differs from what was captured")
	}
}

// The index is derived: lost, another's or damaged it is made again, and whatever it
// holds a capture succeeds and is right.
func TestFamiliesAreMadeAgainAndNeverTrusted(t *testing.T) {
	s := openTest(t)
	first := ramgen.New(siblingBytes, 1)
	sn, _ := publishGuest(t, s, "first", first, "debian")
	other := openTest(t)
	publishGuest(t, other, "other", ramgen.New(siblingBytes, 9), "debian")
	if _, err := other.Index().Summaries(t.Context()); err != nil {
		t.Fatal(err)
	}
	index := func(ids ...ID) func() error {
		return func() error {
			var note []byte
			for _, id := range ids {
				note = fmt.Appendf(note, "%s %s\n", digest.FromString("debian"), id)
			}
			return refs.Write(s.Path("refs.db"), identity(t, s), nil, note)
		}
	}
	swap := func() error {
		b, err := os.ReadFile(other.Path("refs.db"))
		return errors.Join(err, os.WriteFile(s.Path("refs.db"), b, 0o600))
	}
	flip := func(fromEnd int) func() error {
		return func() error {
			b, err := os.ReadFile(s.Path("refs.db"))
			b[(len(b)-fromEnd)%len(b)] ^= 1
			return errors.Join(err, os.WriteFile(s.Path("refs.db"), b, 0o600))
		}
	}
	for i, damage := range []struct {
		what   string
		harm   func() error
		reuses bool
	}{
		{"lost", func() error { return os.RemoveAll(s.Path("refs.db")) }, true},
		{"torn", func() error { return os.Truncate(s.Path("refs.db"), 5000) }, true},
		{"noise", func() error { return os.WriteFile(s.Path("refs.db"), bytes.Repeat([]byte("\x00\xff\n"), 1000), 0o600) }, true},
		{"another store's", swap, true},
		{"a bit of its header", flip(0), true},
		{"a bit of its notes", flip(3), true},
		{"an earlier program's", func() error { return os.WriteFile(s.Path("refs.db"), make([]byte, 1<<15), 0o600) }, true},
		{"snapshots that are gone", index(ID(fmt.Sprintf("%032x", 5)), sn.ID), true},
		{"hostile ids", index("../../../etc"), false},
	} {
		if err := damage.harm(); err != nil {
			t.Fatal(err)
		}
		next := first.Sibling(uint64(10 + i))
		got, share := publishGuest(t, s, fmt.Sprint("guest", i), next, "debian")
		// In so small an image the bound on reads costs some of the reuse.
		if reuses := share >= 0.3; reuses != damage.reuses {
			t.Errorf("%s: the guest reuses %.2f of its pages", damage.what, share)
		}
		checkRAM(t, s, got, next)
	}
}

// A pack of the family that is missing or damaged costs reuse, not the capture.
func TestDamagedFamilyCostsOnlyReuse(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 1000) },
	} {
		s := openTest(t)
		first := ramgen.New(siblingBytes, 1)
		sn, _ := publishGuest(t, s, "first", first, "debian")
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == MediaTypePack {
				if err := harm(s.BlobPath(l.Digest)); err != nil {
					t.Fatal(err)
				}
			}
		}
		next := first.Sibling(2)
		got, _ := publishGuest(t, s, "second", next, "debian")
		t.Log(name)
		checkRAM(t, s, got, next)
	}
}

// Under one key guests of one image share as much as in the clear; under another
// they share nothing with them.
func TestGuestsOfOneImageShareEncryptedPages(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	first := ramgen.New(siblingBytes, 1)
	one, other := keyring.FromKeys(testKey(1)), keyring.FromKeys(testKey(2), testKey(1))
	publishGuest(t, openWith(t, root, one), "first", first, "debian")
	s := openWith(t, root, one)
	sn, share := publishGuest(t, s, "second", first.Sibling(2), "debian")
	if share < 0.55 {
		t.Errorf("the second guest reuses %.2f of its pages, want at least 0.55", share)
	}
	checkRAM(t, s, sn, first.Sibling(2))
	_, alone := publishGuest(t, openTest(t), "third", first.Sibling(3), "debian")
	if _, stranger := publishGuest(t, openWith(t, root, other), "third", first.Sibling(3), "debian"); stranger != alone {
		t.Errorf("under another key a guest reuses %.3f of its pages, alone in a store %.3f", stranger, alone)
	}
}

package storetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// flips is how many bits a test flips: a short slice, or the share of
// COCOON_BITFLIPS that falls to it.
func flips(t *testing.T, perMille int) (int, *rand.Rand) {
	t.Helper()
	all, seed := 20_000, uint64(1)
	if v := os.Getenv("COCOON_BITFLIPS"); v != "" {
		var err error
		if all, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
		seed = uint64(time.Now().UnixNano())
	}
	if v := os.Getenv("COCOON_BITFLIPS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("COCOON_BITFLIPS_SEED=%d", seed)
	return all * perMille / 1000, rand.New(rand.NewPCG(seed, uint64(perMille)))
}

// tally counts what became of flipped bits.
type tally struct{ detected, harmless int }

func (c *tally) report(t *testing.T, what string) {
	t.Helper()
	t.Logf("%d bits flipped in %s: %d detected, %d harmless", c.detected+c.harmless, what, c.detected, c.harmless)
}

// ram has every kind of page: of text, of noise, repeated, zero, and a short
// last one.
func ram() []byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 12*pack.PageSize-100)
	for p := 0; p < len(b); p += pack.PageSize {
		page := b[p:min(p+pack.PageSize, len(b))]
		switch p / pack.PageSize % 4 {
		case 0:
			copy(page, bytes.Repeat([]byte(fmt.Sprint("text ", p/pack.PageSize/8, " ")), 400))
		case 1:
			for i := range page {
				page[i] = byte(rnd.Uint32())
			}
		case 2:
			copy(page, fmt.Sprint("sparse ", p))
		}
	}
	return b
}

// shelf holds packs in memory.
type shelf map[digest.Digest][]byte

// flipKeys encrypt what bits are flipped of.
func flipKeys() *keyring.Ring { return keyring.FromKeys(keyring.FromSecret([32]byte{1})) }

type packReader struct{ *bytes.Reader }

func (packReader) Close() error { return nil }

func (s shelf) OpenPack(_ context.Context, d digest.Digest) (pack.ReaderAtCloser, int64, error) {
	return packReader{bytes.NewReader(s[d])}, int64(len(s[d])), nil
}

func (shelf) Key(id keyring.ID) (*keyring.Key, error) { return flipKeys().Key(id) }

// published makes a store with one snapshot of ram, encrypted if there are keys,
// and gives its map and packs.
func published(t *testing.T, keys *keyring.Ring) (*store.Store, *store.Snapshot, []byte, shelf) {
	t.Helper()
	s, err := store.Open(t.Context(), inMemory(t), store.Options{Create: true, Veto: sleep.Veto, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(t.Context(), "bit flips")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	sn, err := storetest.Publish(t.Context(), s, l, store.Meta{Name: "flipped"}, ram())
	if err != nil {
		t.Fatal(err)
	}
	mapBytes, err := os.ReadFile(s.BlobPath(sn.Spec.Memory[0].Map))
	if err != nil {
		t.Fatal(err)
	}
	m, err := pack.DecodeMap(t.Context(), mapBytes, flipKeys())
	if err != nil {
		t.Fatal(err)
	}
	packs := shelf{}
	for _, d := range m.Packs {
		if packs[d], err = os.ReadFile(s.BlobPath(d)); err != nil {
			t.Fatal(err)
		}
	}
	return s, sn, mapBytes, packs
}

// read gives the image that a map and packs describe. Nobody looks at the
// digests of either here: the formats must find damage by themselves.
func read(mapBytes []byte, packs shelf) ([]byte, error) {
	m, err := pack.DecodeMap(context.Background(), mapBytes, flipKeys())
	if err != nil {
		return nil, err
	}
	if m.Bytes != uint64(len(ram())) {
		return nil, failure.New(failure.Damaged, "%d bytes", m.Bytes) // the store compares it with the spec
	}
	im, err := pack.OpenImage(context.Background(), m, packs)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	b := make([]byte, m.Bytes)
	_, err = im.ReadAt(b, 0)
	return b, err
}

// judge takes the answer to a reading after a flip.
func (c *tally) judge(t *testing.T, what string, got, want []byte, err error) {
	t.Helper()
	switch {
	case err == nil && bytes.Equal(got, want):
		c.harmless++
	case err == nil:
		t.Fatalf("%s: a wrong page was returned", what)
	case errors.Is(err, failure.Damaged), errors.Is(err, failure.Incompatible), errors.Is(err, failure.NotFound):
		c.detected++
	default:
		t.Fatalf("%s: %v is no damage", what, err)
	}
}

func TestBitFlipsInPacks(t *testing.T)          { flipPacks(t, nil, 380) }
func TestBitFlipsInEncryptedPacks(t *testing.T) { flipPacks(t, flipKeys(), 180) }

func flipPacks(t *testing.T, keys *keyring.Ring, perMille int) {
	_, _, mapBytes, packs := published(t, keys)
	n, rnd := flips(t, perMille)
	var c tally
	want := ram()
	for d, b := range packs {
		for range n / len(packs) {
			at, bit := rnd.IntN(len(b)), byte(1)<<rnd.IntN(8)
			b[at] ^= bit
			got, err := read(mapBytes, packs)
			c.judge(t, fmt.Sprintf("pack %s, byte %d, bit %#x", d, at, bit), got, want, err)
			b[at] ^= bit
		}
	}
	c.report(t, "packs")
}

func TestBitFlipsInPageMaps(t *testing.T)          { flipMaps(t, nil, 170) }
func TestBitFlipsInEncryptedPageMaps(t *testing.T) { flipMaps(t, flipKeys(), 80) }

func flipMaps(t *testing.T, keys *keyring.Ring, perMille int) {
	_, _, mapBytes, packs := published(t, keys)
	n, rnd := flips(t, perMille)
	var c tally
	want := ram()
	for range n {
		at, bit := rnd.IntN(len(mapBytes)), byte(1)<<rnd.IntN(8)
		mapBytes[at] ^= bit
		got, err := read(mapBytes, packs)
		c.judge(t, fmt.Sprintf("map, byte %d, bit %#x", at, bit), got, want, err)
		mapBytes[at] ^= bit
	}
	c.report(t, "page maps")
}

// TestBitFlipsInManifests: a manifest has no digest of its own. A flip that is
// not detected must leave the collector the same blobs to keep.
func TestBitFlipsInManifests(t *testing.T) {
	s, sn, _, _ := published(t, nil)
	n, rnd := flips(t, 140)
	path := filepath.Join(sn.Dir, "manifest.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	edges := document.Edges(sn)
	var c tally
	want := ram()
	for range n {
		at, bit := rnd.IntN(len(whole)), byte(1)<<rnd.IntN(8)
		what := fmt.Sprintf("manifest, byte %d, bit %#x", at, bit)
		write(t, f, whole[at]^bit, at)
		got, err := throughStore(s, sn.ID, edges)
		c.judge(t, what, got, want, err)
		write(t, f, whole[at], at)
	}
	c.report(t, "manifests")
}

func write(t *testing.T, f *os.File, b byte, at int) {
	t.Helper()
	if _, err := f.WriteAt([]byte{b}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// throughStore reads the RAM as a restore does.
func throughStore(s *store.Store, id store.ID, edges []digest.Digest) ([]byte, error) {
	sn, err := s.Get(context.Background(), id)
	if err != nil {
		return nil, err
	}
	now := document.Edges(sn)
	for _, d := range now {
		if _, err := os.Stat(s.BlobPath(d)); err != nil {
			return nil, failure.New(failure.Damaged, "dangling: %w", err) // the collector refuses it
		}
	}
	for _, d := range edges {
		if !slices.Contains(now, d) {
			return nil, fmt.Errorf("the collector would take blob %s", d)
		}
	}
	im, err := contents.Of(s, sn).Memory(context.Background(), 0)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	b := make([]byte, im.Bytes())
	_, err = im.ReadAt(b, 0)
	return b, err
}

// TestBitFlipsInTheIndex: a damaged index is seen to be none, and the list is that of
// one that was made anew.
func TestBitFlipsInTheIndex(t *testing.T) {
	s, sn, _, _ := published(t, nil)
	list := func() string {
		all, err := s.Index().Summaries(t.Context())
		text, jsonErr := json.Marshal(all)
		if err := errors.Join(err, jsonErr); err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	path := s.Path("refs.db")
	for known := false; !known; _, known = s.Index().Known(sn.ID) {
		time.Sleep(time.Millisecond) // until its files are old enough
		list()
	}
	want := list() // by the index
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, rnd := flips(t, 25)
	var c tally
	for range n {
		at, bit := rnd.IntN(len(whole)), byte(1)<<rnd.IntN(8)
		flipped := bytes.Clone(whole)
		flipped[at] ^= bit
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if s.Index().Check() != nil {
			c.detected++
		} else {
			c.harmless++ // it looks like another program's, and is replaced
		}
		if got := list(); got != want {
			t.Fatalf("byte %d, bit %#x: %s, want %s", at, bit, got, want)
		}
	}
	c.report(t, "the index")
}

package pack_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// bomb is a map that keeps every rule and has as many runs as were asked for,
// each of one page, in a file of a few kilobytes.
func bomb(t testing.TB, packs []digest.Digest, runs int) []byte {
	t.Helper()
	m := &pack.Map{Packs: packs}
	payload, err := m.Payload()
	if err != nil {
		t.Fatal(err)
	}
	payload = append(payload, 1, 1, 0, 0) // gap, pages, pack, page
	for range runs - 1 {
		payload = append(payload, 1, 1, 0, 1) // the same page again
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	b := le.AppendUint16([]byte(pack.MapMagic), pack.MapVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, pack.PageSize)
	b = le.AppendUint64(b, uint64(2*runs)*pack.PageSize)
	b = le.AppendUint32(b, uint32(len(packs)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(runs))
	b = le.AppendUint64(b, uint64(len(payload)))
	b = enc.EncodeAll(payload, b)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func checkOf(runs int) pack.MapCheck {
	return pack.MapCheck{
		Bytes: uint64(2*runs) * pack.PageSize, Runs: uint64(runs),
		Pages: func(_ context.Context, packs []digest.Digest) ([]uint32, error) {
			return make([]uint32, len(packs)), nil
		},
	}
}

func TestAMapIsCheckedInBoundedMemory(t *testing.T) {
	const runs = 1 << 23
	packs := []digest.Digest{digest.FromString("a pack")}
	b := bomb(t, packs, runs)
	if len(b) > 64<<10 {
		t.Fatalf("the map takes %d bytes: no bomb", len(b))
	}
	c := checkOf(runs)
	c.Pages = func(context.Context, []digest.Digest) ([]uint32, error) { return []uint32{1}, nil }
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := pack.CheckMap(t.Context(), b, keyring.None(), c)
	runtime.ReadMemStats(&after)
	if err != nil || n != runs {
		t.Fatalf("%d runs, %v", n, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes were allocated to look at %d runs", grown, runs)
	}
}

func TestAMapIsHeldToWhatCanBeHad(t *testing.T) {
	const runs = 1000
	packs := []digest.Digest{digest.FromString("a pack")}
	b := bomb(t, packs, runs)
	for name, change := range map[string]func(*pack.MapCheck){
		"fewer runs":     func(c *pack.MapCheck) { c.Runs = runs - 1 },
		"another length": func(c *pack.MapCheck) { c.Bytes++ },
		"an empty pack":  func(*pack.MapCheck) {},
		"packs not there": func(c *pack.MapCheck) {
			c.Pages = func(context.Context, []digest.Digest) ([]uint32, error) {
				return nil, failure.New(failure.Damaged, "no pack")
			}
		},
	} {
		c := checkOf(runs)
		change(&c)
		if n, err := pack.CheckMap(t.Context(), b, keyring.None(), c); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: %d runs, %v", name, n, err)
		}
	}
}

func TestDecodingAMapHearsTheContext(t *testing.T) {
	const runs = 1 << 17
	b := bomb(t, []digest.Digest{digest.FromString("a pack")}, runs)
	ctx, cancel := context.WithCancel(t.Context())
	c := checkOf(runs)
	c.Pages = func(context.Context, []digest.Digest) ([]uint32, error) { cancel(); return []uint32{1}, nil }
	if _, err := pack.CheckMap(ctx, b, keyring.None(), c); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
	if _, err := pack.DecodeMap(ctx, b, keyring.None()); !errors.Is(err, context.Canceled) {
		t.Errorf("decode: %v", err)
	}
}

// TestMapsOfAnySizeAreRead: the payload is larger than the window that a reader
// has.
func TestMapsOfAnySizeAreRead(t *testing.T) {
	m := &pack.Map{Packs: []digest.Digest{digest.FromString("a pack")}, Bytes: 1 << 40}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(3 << 20) {
		m.Runs = append(m.Runs, pack.Run{First: 3*i + i%2, Pages: 1, PackPage: rnd.Uint32N(pack.MaxPackPages - 1)})
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < pack.MaxMapWindow {
		t.Errorf("the map takes %d bytes, want more than the window", len(b))
	}
	got, err := pack.DecodeMap(t.Context(), b, keyring.None())
	if err != nil || len(got.Runs) != len(m.Runs) {
		t.Fatal(err)
	}
	for i := range m.Runs {
		if got.Runs[i] != m.Runs[i] {
			t.Fatalf("run %d: %+v, want %+v", i, got.Runs[i], m.Runs[i])
		}
	}
}

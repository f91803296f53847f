package pagehash

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestPairEqualsTwoSums(t *testing.T) {
	if !pairs {
		t.Log("this processor has no SHA instructions: the plain way is tested")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	a, b := make([]byte, 3*4096+1), make([]byte, 3*4096+1)
	for i := range a {
		a[i], b[i] = byte(rng.Uint32()), byte(rng.Uint32())
	}
	for n := range 4 * 64 {
		check(t, a[:n], b[len(b)-n:]) // every alignment and every padding
	}
	check(t, a[:4096], b[1:4097])
	check(t, make([]byte, 4096), bytes.Repeat([]byte{0xff}, 4096))
	check(t, a, b)
}

func TestPairOfUnequalLengths(t *testing.T) { check(t, []byte("one"), []byte("three")) }

func check(t *testing.T, a, b []byte) {
	t.Helper()
	gotA, gotB := Pair(a, b)
	if wantA, wantB := Of(a), Of(b); gotA != wantA || gotB != wantB {
		t.Fatalf("pair of %d and %d bytes: %x %x, want %x %x", len(a), len(b), gotA, gotB, wantA, wantB)
	}
}

// FuzzPair holds the assembly to crypto/sha256.
func FuzzPair(f *testing.F) {
	f.Add([]byte("abc"), byte(0), uint(0))
	f.Add(make([]byte, 4096), byte(0x80), uint(4095))
	f.Fuzz(func(t *testing.T, a []byte, flip byte, at uint) {
		b := bytes.Clone(a)
		if len(b) > 0 {
			b[at%uint(len(b))] ^= flip
		}
		check(t, a, b)
	})
}

func BenchmarkOne(b *testing.B) {
	page := make([]byte, 4096)
	b.SetBytes(4096)
	for b.Loop() {
		Of(page)
	}
}

func BenchmarkPair(b *testing.B) {
	p, q := make([]byte, 4096), make([]byte, 4096)
	b.SetBytes(2 * 4096)
	for b.Loop() {
		Pair(p, q)
	}
}

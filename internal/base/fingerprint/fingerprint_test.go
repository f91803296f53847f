package fingerprint

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

func testKey(t testing.TB, salt string) *Key {
	t.Helper()
	k, err := New([SecretBytes]byte{1, 2, 3}, salt)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func random(seed uint64, n int) []byte {
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

// plainly is the definition in the package comment, in big integers.
func plainly(k *Key, content []byte, number uint64) Print {
	two32, two64 := new(big.Int).Lsh(big.NewInt(1), 32), new(big.Int).Lsh(big.NewInt(1), 64)
	word := func(b []byte) *big.Int { return new(big.Int).SetUint64(uint64(binary.LittleEndian.Uint32(b))) }
	plus := func(m *big.Int, key uint32) *big.Int {
		return m.Mod(m.Add(m, new(big.Int).SetUint64(uint64(key))), two32)
	}
	var p Print
	binary.LittleEndian.PutUint64(p[:], number)
	for page := range slices.Chunk(content, PageBytes) {
		page = append(slices.Clone(page), make([]byte, PageBytes-len(page))...)
		for pass := range passes {
			sum, from := new(big.Int), 2*pass
			for i := 0; i < words; i += 2 {
				a, b := plus(word(page[4*i:]), k.nh[from+i]), plus(word(page[4*i+4:]), k.nh[from+i+1])
				sum.Add(sum, a.Mul(a, b))
			}
			half := p[pass%2*8:][:8]
			little := sum.Mod(sum, two64).FillBytes(make([]byte, 8))
			slices.Reverse(little)
			for i := range half {
				half[i] ^= little[i]
			}
			if pass%2 == 1 {
				k.block.Encrypt(p[:], p[:])
			}
		}
	}
	return p
}

func TestPrintsAreWhatTheyAreDefinedAs(t *testing.T) {
	k := testKey(t, "boot")
	ones := bytes.Repeat([]byte{0xff}, PageBytes)
	for name, content := range map[string][]byte{
		"zeros": make([]byte, PageBytes), "ones": ones, "random": random(1, PageBytes),
		"block": random(2, 16*PageBytes), "end of a disk": random(3, 3*PageBytes+512), "nothing": nil,
	} {
		for _, number := range []uint64{0, 1, 1<<63 + 5} {
			if got, want := k.Of(content, number), plainly(k, content, number); got != want {
				t.Errorf("%s, number %d: %x, want %x", name, number, got, want)
			}
		}
	}
}

// What vectors give is what plain Go gives, at any alignment.
func TestVectorsAreLikePlainGo(t *testing.T) {
	k, b := testKey(t, "boot"), random(8, 2*PageBytes)
	for at := range PageBytes {
		page := (*[PageBytes]byte)(b[at:])
		if got, want := nh(&k.nh, page), plainNH(&k.nh, page); got != want {
			t.Fatalf("from byte %d: %x, want %x", at, got, want)
		}
	}
}

func FuzzPrintsAreWhatTheyAreDefinedAs(f *testing.F) {
	k := testKey(f, "fuzz")
	f.Add(random(4, PageBytes), uint64(9))
	f.Add([]byte{1}, uint64(0))
	f.Fuzz(func(t *testing.T, content []byte, number uint64) {
		if got, want := k.Of(content, number), plainly(k, content, number); got != want {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

// A flipped bit anywhere, another number, secret or salt: another print.
func TestPrintsDiffer(t *testing.T) {
	k := testKey(t, "boot")
	page := random(5, PageBytes)
	seen := map[Print]string{}
	note := func(what string, p Print) {
		if before, ok := seen[p]; ok {
			t.Errorf("%s has the print of %s", what, before)
		}
		seen[p] = what
	}
	note("the page", k.Of(page, 7))
	note("the page elsewhere", k.Of(page, 8))
	note("the page after a restart", testKey(t, "later boot").Of(page, 7))
	other, err := New([SecretBytes]byte{1, 2, 4}, "boot")
	if err != nil {
		t.Fatal(err)
	}
	note("the page under another secret", other.Of(page, 7))
	for bit := range 8 * PageBytes {
		page[bit/8] ^= 1 << (bit % 8)
		note("one bit", k.Of(page, 7))
		page[bit/8] ^= 1 << (bit % 8)
	}
	if k.ID() == other.ID() || k.ID() == testKey(t, "later boot").ID() || k.ID() != testKey(t, "boot").ID() {
		t.Error("IDs do not tell keys apart")
	}
}

func TestMakingPrintsNeedsNoMemory(t *testing.T) {
	k, page, p := testKey(t, "boot"), random(6, PageBytes), new(Print)
	if n := testing.AllocsPerRun(100, func() { k.Make(p, page, 1) }); n > 0 {
		t.Errorf("%v allocations a print", n)
	}
}

func BenchmarkPage(b *testing.B) {
	k, p := testKey(b, "boot"), new(Print)
	pages := random(7, 64<<20) // more than the processor's caches hold
	b.SetBytes(PageBytes)
	for i := 0; b.Loop(); i = (i + PageBytes) % len(pages) {
		k.Make(p, pages[i:i+PageBytes], uint64(i))
	}
}

func BenchmarkPlainNH(b *testing.B) {
	k, page := testKey(b, "boot"), (*[PageBytes]byte)(random(7, PageBytes))
	b.SetBytes(PageBytes)
	for b.Loop() {
		plainNH(&k.nh, page)
	}
}

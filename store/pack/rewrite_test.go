package pack_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/store/pack"
)

// framesNeeded is how many frames a restore of the image decodes.
func framesNeeded(t *testing.T, s pack.Source, m *pack.Map) int {
	t.Helper()
	return open(t, s, m).FramesNeeded()
}

// framesOfFresh is how many frames a capture without parent makes.
func framesOfFresh(ram []byte) int {
	distinct := map[pack.Hash]bool{}
	for ; len(ram) > 0; ram = ram[pack.PageSize:] {
		if page := ram[:pack.PageSize]; !pack.IsZero(page) {
			distinct[pack.Sum(page)] = true
		}
	}
	return (len(distinct) + pack.FramePages - 1) / pack.FramePages
}

// seedOf prints the seed of a test, or takes it from PACK_SEED.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PACK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PACK_SEED=%d", seed)
	return seed
}

// After any number of generations, however a guest changes its pages, an image
// needs at most half as many frames again as a capture without parent, and
// reads back.
func TestReadsStayBoundedOverGenerations(t *testing.T) {
	const pages = 5000
	generations := 50
	if testing.Short() {
		generations = 12
	}
	churns := map[string]func(rng *rand.Rand, gen int) []int{
		"uniform 7 %": func(rng *rand.Rand, _ int) []int { return rng.Perm(pages)[:pages*7/100] },
		"hot tenth": func(rng *rand.Rand, _ int) []int {
			hot := rng.Perm(pages / 10)
			return append(hot[:pages*6/100], pages/10+rng.IntN(pages*9/10))
		},
		"rare and large": func(rng *rand.Rand, gen int) []int {
			if gen%10 == 9 {
				return rng.Perm(pages)[:pages*6/10]
			}
			return rng.Perm(pages)[:3]
		},
		"any": func(rng *rand.Rand, _ int) []int { return rng.Perm(pages)[:rng.IntN(pages)] },
	}
	for name, churn := range churns {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seedOf(t), 1))
			ram := make([]byte, pages*pack.PageSize)
			change := func(page int) { binary.LittleEndian.PutUint64(ram[page*pack.PageSize+8*rng.IntN(512):], rng.Uint64()) }
			for page := range pages / 2 { // the rest is zero until it is touched
				change(page)
			}
			s := newShelf()
			m, st := save(t, s, bytes.NewReader(ram), int64(len(ram)), nil)
			changed, stored, worst := 0, uint64(0), 0.0
			for gen := range generations {
				for _, page := range churn(rng, gen) {
					change(page)
					changed++
				}
				m, st = save(t, s, bytes.NewReader(ram), int64(len(ram)), open(t, s, m))
				stored += st.PagesNew
				need, least := framesNeeded(t, s, m), framesOfFresh(ram)
				worst = max(worst, float64(need)/float64(least))
				if need > least*3/2 {
					t.Fatalf("generation %d needs %d frames, a fresh capture %d", gen, need, least)
				}
			}
			if !bytes.Equal(load(t, s, m), ram) {
				t.Error("the last generation differs from the RAM")
			}
			t.Logf("at worst %.2f times the frames; %.2f pages stored for each changed one", worst, float64(stored)/float64(changed))
		})
	}
}

// Frames that cannot be read are left where they are: the capture succeeds, and
// says of itself only what is true.
func TestRewriteLeavesWhatItCannotRead(t *testing.T) {
	const pages = 4 * pack.FramePages
	ram := make([]byte, pages*pack.PageSize)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range ram {
		ram[i] = byte(rng.Uint32())
	}
	s := newShelf()
	m, _ := save(t, s, bytes.NewReader(ram), int64(len(ram)), nil)
	old := m.Packs[0]
	parent := open(t, s, m)
	for at := 10; at < 2000; at++ { // the first frame; the index stays whole
		s.packs[old][at] ^= 0xff
	}
	for p := range pages {
		if p%8 != 0 {
			copy(ram[p*pack.PageSize:], fmt.Sprint("later ", p))
		}
	}
	next, st := save(t, s, bytes.NewReader(ram), int64(len(ram)), parent)
	if st.PagesNew <= pages*7/8 {
		t.Errorf("%d new pages: nothing was moved out of the frames that could be read", st.PagesNew)
	}
	im := open(t, s, next)
	got := make([]byte, pack.PageSize)
	if _, err := im.ReadAt(got, (pages-8)*pack.PageSize); err != nil || !bytes.Equal(got, ram[(pages-8)*pack.PageSize:][:pack.PageSize]) {
		t.Errorf("page of a frame that could be read: %v", err)
	}
	if _, err := im.ReadAt(got, 0); err == nil {
		t.Error("page of the damaged frame was read")
	}
}

package packer

import (
	"encoding/base64"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cocoonv2/cocoon/store/pack"
)

func randomPage(rng *rand.Rand) []byte {
	p := make([]byte, pack.PageSize)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// TestClassesOfPages: what will not compress is told from what will.
func TestClassesOfPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for range 1000 {
		if p := randomPage(rng); classify(p) != dense {
			wrong++
		} else if text := []byte(base64.StdEncoding.EncodeToString(p)); classify(text[:pack.PageSize]) != plain {
			wrong++
		}
	}
	if wrong > 2 {
		t.Errorf("%d of 1000 random pages, or the same in base64, were judged wrongly", wrong)
	}
	code := self[len(self)/4/pack.PageSize*pack.PageSize:][:pack.PageSize]
	counter := make([]byte, pack.PageSize) // columns: half of it random, half zero
	for i := range counter {
		if i%16 < 8 {
			counter[i] = byte(rng.Uint32())
		}
	}
	for name, p := range map[string][]byte{"code": code, "half random": counter, "zero": make([]byte, pack.PageSize)} {
		if classify(p) != plain {
			t.Errorf("%s is taken for what does not compress", name)
		}
	}
}

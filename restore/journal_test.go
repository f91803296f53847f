package restore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestBitFlipsInJournals: a journal says what is taken apart. Damaged, it names
// the VM of its file name or nobody.
func TestBitFlipsInJournals(t *testing.T) {
	all := 20_000
	if v := os.Getenv("COCOON_BITFLIPS"); v != "" {
		var err error
		if all, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	id := "0123456789abcdef0123456789abcdef"
	path := filepath.Join(t.TempDir(), id+".json")
	whole := []byte(`{"vm":"` + id + `","snapshot":"` + id + `","started":"` + time.Now().UTC().Format(time.RFC3339) + `"}`)
	detected, harmless := 0, 0
	for range all * 25 / 1000 {
		b := bytes.Clone(whole)
		b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		switch j, err := readJournal(path); {
		case errors.Is(err, failure.Damaged):
			detected++
		case err != nil:
			t.Fatalf("%q: %v is no damage", b, err)
		case j.VM != id:
			t.Fatalf("%q names VM %q", b, j.VM)
		default:
			harmless++
		}
	}
	t.Logf("%d bits flipped in journals: %d detected, %d harmless", detected+harmless, detected, harmless)
}

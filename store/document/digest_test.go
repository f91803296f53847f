package document

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestADigestIsWhatTheLibrarySaysItIs, of the one algorithm that is used.
func TestADigestIsWhatTheLibrarySaysItIs(t *testing.T) {
	good := digest.FromString("x")
	for _, d := range []digest.Digest{
		good, "", "sha256:", "sha256", good[:len(good)-1], good + "0", digest.Digest("sha512:" + strings.Repeat("0", 128)), digest.Digest(strings.ToUpper(string(good))),
		digest.Digest(strings.Replace(string(good), "sha256", "SHA256", 1)), good[:len(good)-1] + "g", good[:len(good)-1] + "A", " " + good, good + "\n", good[:len(good)-1] + "/",
	} {
		if got, want := IsSHA256(d), d.Validate() == nil && d.Algorithm() == digest.SHA256; got != want {
			t.Errorf("%q: %v, want %v", d, got, want)
		}
	}
}

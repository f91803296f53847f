package spelling

import (
	"regexp"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// rules say as regular expressions what the package says by hand.
var rules = []struct {
	name    string
	pattern *regexp.Regexp
	is      func(s string) bool
}{
	{"Name 128", regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`), func(s string) bool { return Name(s, 128) }},
	{"Name 64", regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`), func(s string) bool { return Name(s, 64) }},
	{"ID", regexp.MustCompile(`^[0-9a-f]{32}$`), func(s string) bool { return ID(s) }},
	{"Hex 64", regexp.MustCompile(`^[0-9a-f]{64}$`), func(s string) bool { return Hex([]byte(s), 64) }},
	{"Word 64", regexp.MustCompile(`^[a-zA-Z0-9_.:/-]{0,64}$`), func(s string) bool { return Word(s, 64) }},
	{"Digits", regexp.MustCompile(`^(sha256:)?[0-9a-f]{3,64}$`), func(s string) bool { _, ok := Digits(s); return ok }},
	{"Device", regexp.MustCompile(`^[!#$&-+\-.0-9;<>-Z\\^-~]{1,15}$`), func(s string) bool { return Device(s) || s == "." || s == ".." }},
}

func FuzzRules(f *testing.F) {
	for _, n := range []int{0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129} {
		f.Add(strings.Repeat("a", n))
		f.Add(strings.Repeat("0", n))
		f.Add(strings.Repeat("g", n))
	}
	for c := range 256 {
		f.Add(string([]byte{byte(c)}))
		f.Add(string([]byte{'a', byte(c)}))
		f.Add(strings.Repeat("a", 31) + string([]byte{byte(c)}))
	}
	f.Add("web-1.2_x\n")
	f.Add("sha256:0a1")
	f.Add("sha256:sha256:0a1")
	f.Add("ä")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range rules {
			if got, want := r.is(s), r.pattern.MatchString(s); got != want {
				t.Errorf("%s of %q: %v, want %v", r.name, s, got, want)
			}
		}
	})
}

package spelling

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// FuzzClaim: a claim is written as it was read, and nothing but a word of it gets
// out otherwise than in quotes.
func FuzzClaim(f *testing.F) {
	for _, s := range []string{"", "cow0", "x,path=/etc/shadow", "a\nb", "\x1b[2J", strings.Repeat("a", 65), "ä", `"`, "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var c Claim
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(c); err != nil || string(again) != string(text) {
			t.Errorf("%s is written as %s (%v)", text, again, err)
		}
		word, ok := c.Word(64)
		if ok != Word(s, 64) || word != "" && word != s {
			t.Errorf("%q is the word %q, %v", s, word, ok)
		}
		if shown := fmt.Sprintf("%s|%v", c, c); !ok && !strings.HasPrefix(shown, `"`) || strings.ContainsFunc(shown, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q is shown as %q", s, shown)
		}
	})
}

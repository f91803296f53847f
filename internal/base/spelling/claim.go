package spelling

import (
	"encoding/json"
	"strconv"
)

// Claim is a string from an untrusted document. It is not a Go string, so that it
// cannot end up in a path, an argument or a line by oversight: it can be
// compared, tested for being a word, or printed, which quotes it if it is not
// one. Its JSON is that of the string.
type Claim struct{ said string }

// Claimed says s.
func Claimed(s string) Claim { return Claim{s} }

// claimLength is how many characters are printed unquoted.
const claimLength = 64

// Word returns the string if it is a [Word] of at most so many characters.
func (c Claim) Word(most int) (word string, ok bool) {
	if !Word(c.said, most) {
		return "", false
	}
	return c.said, true
}

// String is for display.
func (c Claim) String() string {
	if Word(c.said, claimLength) {
		return c.said
	}
	if len(c.said) > claimLength {
		return strconv.QuoteToASCII(c.said[:claimLength]) + "…"
	}
	return strconv.QuoteToASCII(c.said)
}

// IsZero reports whether it is empty.
func (c Claim) IsZero() bool { return c.said == "" }

// Equal compares.
func (c Claim) Equal(o Claim) bool { return c == o }

// MarshalJSON is that of a string.
func (c Claim) MarshalJSON() ([]byte, error) { return json.Marshal(c.said) }

// UnmarshalJSON is that of a string.
func (c *Claim) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &c.said) }

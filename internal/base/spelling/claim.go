package spelling

import (
	"encoding/json"
	"strconv"
)

// Claim is what a document says that anybody may have written. It is no string, so
// that nobody pastes it into a path, an argument or a line by oversight: it is
// compared, asked whether it is a word, or printed, which shows what is no word in
// quotes. Its JSON is that of the string.
type Claim struct{ said string }

// Claimed says s.
func Claimed(s string) Claim { return Claim{s} }

// claimLength bounds what is printed as it is, characters.
const claimLength = 64

// Word is what was said, if it is a [Word] of at most so many characters.
func (c Claim) Word(most int) (word string, ok bool) {
	if !Word(c.said, most) {
		return "", false
	}
	return c.said, true
}

// String is for people.
func (c Claim) String() string {
	if Word(c.said, claimLength) {
		return c.said
	}
	if len(c.said) > claimLength {
		return strconv.QuoteToASCII(c.said[:claimLength]) + "…"
	}
	return strconv.QuoteToASCII(c.said)
}

// IsZero: nothing was said.
func (c Claim) IsZero() bool { return c.said == "" }

// Equal compares.
func (c Claim) Equal(o Claim) bool { return c == o }

// MarshalJSON is that of a string.
func (c Claim) MarshalJSON() ([]byte, error) { return json.Marshal(c.said) }

// UnmarshalJSON is that of a string.
func (c *Claim) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &c.said) }

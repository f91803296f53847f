package screen

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Safe escapes what is not printable, newline and tab too.
func Safe(s string) string {
	if plain(s) {
		return s
	}
	return string(AppendSafe(nil, s))
}

// plain: printable ASCII, as nearly everything is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// AppendSafe appends Safe of a text to b.
func AppendSafe(b []byte, s string) []byte {
	if plain(s) {
		return append(b, s...)
	}
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		b = appendRune(b, r, s[:n])
		s = s[n:]
	}
	return b
}

// appendRune adds one rune, whose bytes are text.
func appendRune(b []byte, r rune, text string) []byte {
	switch {
	case r == utf8.RuneError && len(text) <= 1:
		return fmt.Appendf(b, `\x%02x`, text)
	case strconv.IsPrint(r):
		return append(b, text...)
	}
	quoted := strconv.QuoteRune(r)
	return append(b, quoted[1:len(quoted)-1]...)
}

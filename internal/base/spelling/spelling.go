// Package spelling defines how names and ids of objects are written. It is
// hand-written: the equivalent regular expressions, in the test, take longer to
// compile than most commands run, and a listing checks every folder.
package spelling

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Name: a letter or digit, then letters, digits, '_', '.' and '-', at most so
// many characters in all.
func Name(s string, most int) bool {
	return s != "" && len(s) <= most && alphanumeric(s[0]) && each(s, func(c byte) bool {
		return alphanumeric(c) || c == '_' || c == '.' || c == '-'
	})
}

// ID of a snapshot, VM or lease: 32 lower-case hexadecimal digits.
func ID[T ~string | ~[]byte](s T) bool { return Hex(s, 32) }

// SnapshotID is the id of a snapshot: the name of its folder.
type SnapshotID string

// snapshotName bounds the name of a snapshot, characters.
const snapshotName = 128

// SnapshotName: what a snapshot may be called; what looks like an id is none.
func SnapshotName(s string) bool { return Name(s, snapshotName) && !ID(s) }

// CheckSnapshotName refuses what is no SnapshotName.
func CheckSnapshotName(s string) error {
	if !SnapshotName(s) {
		return failure.New(failure.Usage, "name %q: 1 to 128 of letters, digits, '_', '.', '-', beginning with a letter or digit, and no id", s)
	}
	return nil
}

// NewID is one that nobody has.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return hex.EncodeToString(b[:])
}

// Hex: just so many lower-case hexadecimal digits.
func Hex[T ~string | ~[]byte](s T, digits int) bool {
	return len(s) == digits && each(s, func(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' })
}

// Digits are those of a digest as users type it: all or its first ones, at least
// three, with or without sha256:.
func Digits(s string) (hex string, ok bool) {
	hex = strings.TrimPrefix(s, "sha256:")
	return hex, len(hex) >= 3 && len(hex) <= 64 && Hex(hex, len(hex))
}

// Word: what may become part of a comma-separated argument of the VMM, at most so
// many characters; may be empty. A comma or '=' in it would add options of its
// own, such as another path.
func Word(s string, most int) bool {
	return len(s) <= most && each(s, func(c byte) bool {
		return alphanumeric(c) || c == '_' || c == '.' || c == ':' || c == '/' || c == '-'
	})
}

// Device: a valid name of a network device that can be part of an argument, 1 to
// 15 printable ASCII characters.
func Device(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." && each(s, func(c byte) bool {
		switch c {
		case '/', ':', '%', ',', '=', '"', '[', ']':
			return false
		}
		return c > ' ' && c < 0x7f
	})
}

func each[T ~string | ~[]byte](s T, ok func(c byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool { return digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func digit(c byte) bool { return '0' <= c && c <= '9' }

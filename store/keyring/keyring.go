// Package keyring holds the keys that snapshots are encrypted with at rest.
//
// A key is 32 random bytes in a file of one line; its [ID] is derived from it,
// tells keys apart and reveals nothing. Nobody uses a key itself: whatever is
// sealed takes a subkey of its own, derived by HKDF-SHA-256 from the key, a
// label and a salt, so no two uses meet and no nonce can come twice.
//
// A [Ring] is what a command was given: key files, of which the first seals
// what is new and all of them open what is there. They are read when first
// needed, so listing, removing and collecting work without any key.
//
// Invariants: a key file that others may read is refused; a key that is missing
// is [Missing], never damage; no error or string of this package holds a secret.
package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// secretBytes is the length of a key.
const secretBytes = 32

// ID tells keys apart.
type ID [8]byte

// String is the ID in hexadecimal, as everything prints it.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String gave.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, failure.New(failure.Damaged, "%.40q is no id of a key", s)
	}
	return ID(b), nil
}

// Key seals and opens.
type Key struct {
	id     ID
	secret [secretBytes]byte
}

// FromSecret makes the key of 32 bytes that are random, or those of a test.
func FromSecret(secret [secretBytes]byte) *Key {
	k := &Key{secret: secret}
	id := k.Derive("cocoon key id", nil)
	k.id = ID(id[:len(ID{})])
	return k
}

// ID of the key.
func (k *Key) ID() ID { return k.id }

// String keeps a key that is printed by mistake from being readable.
func (k *Key) String() string { return "key " + k.id.String() }

// Derive gives the subkey of a label and a salt: HKDF-SHA-256, RFC 5869.
func (k *Key) Derive(label string, salt []byte) [sha256.Size]byte {
	b, err := hkdf.Key(sha256.New, k.secret[:], salt, label, sha256.Size)
	if err != nil {
		panic("derive a key of 32 bytes: " + err.Error()) // no input can cause it
	}
	return [sha256.Size]byte(b)
}

// Mac authenticates bytes that are kept in the clear: HMAC-SHA-256 in
// hexadecimal, with a subkey of the label.
func (k *Key) Mac(label string, b []byte) string {
	sub := k.Derive(label, nil)
	h := hmac.New(sha256.New, sub[:])
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// Keys gives keys by ID; a key that it lacks is [Missing].
type Keys interface {
	Key(id ID) (*Key, error)
}

// None is Keys without any.
func None() Keys { return (*Ring)(nil) }

// Missing says that something is encrypted with a key that is not at hand. It
// is failure.Incompatible, never damage.
type Missing struct {
	ID   ID
	Have []ID
}

// Error names the key, and those that are there.
func (m *Missing) Error() string {
	if len(m.Have) == 0 {
		return "encrypted with key " + m.ID.String() + ", and no key file is configured"
	}
	have := ""
	for _, id := range m.Have {
		have += " " + id.String()
	}
	return "encrypted with key " + m.ID.String() + ", but the key files hold" + have
}

// missingHint is the remedy; there is no other.
func missingHint() string {
	return "name the file of that key: " + hint.KeyFile.Of() + ", COCOON_KEY_FILE or keyFile; without it the data cannot be had back"
}

func missing(id ID, have []ID) error {
	return failure.Hint(failure.Wrap(failure.Incompatible, &Missing{id, have}), missingHint())
}

// IsMissing reports whether err comes from a key that is not at hand.
func IsMissing(err error) bool {
	var m *Missing
	return errors.As(err, &m)
}

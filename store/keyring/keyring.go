// Package keyring holds the keys that snapshots are encrypted with at rest.
//
// A key is 32 random bytes in a file of one line; its [ID] is derived from it,
// distinguishes keys and reveals nothing. A key is never used directly:
// everything sealed uses a subkey, derived by HKDF-SHA-256 from the key, a label
// and a salt, so no two uses collide and no nonce repeats.
//
// A [Ring] is the list of key files given to a command: the first encrypts new
// data, all of them decrypt. They are read when first needed, so listing,
// removing and collecting work without any key.
//
// Invariants: a key file that others may read is refused; a missing key is
// [Missing], never damage; no error or string of this package contains a secret.
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

// ID distinguishes keys.
type ID [8]byte

// String is the ID in hexadecimal, as it is printed everywhere.
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

// String prevents a key from being printed by mistake.
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

// Keys returns keys by ID; an unknown one is [Missing].
type Keys interface {
	Key(id ID) (*Key, error)
}

// None is Keys without any.
func None() Keys { return (*Ring)(nil) }

// Missing says that something is encrypted with a key that is not available. It
// is failure.Incompatible, never damage.
type Missing struct {
	ID   ID
	Have []ID
}

// Error names the required key, and the available ones.
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

// IsMissing reports whether err comes from a missing key.
func IsMissing(err error) bool {
	var m *Missing
	return errors.As(err, &m)
}

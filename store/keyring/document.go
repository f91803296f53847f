package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// A sealed document is a small one, encrypted as a whole (docs/format.md "Sealed
// document"). Its salt is a keyed hash of what it holds: the same document under
// the same key is the same file, and is stored once; two documents never share
// a subkey.
const (
	documentMagic   = "COCOSEAL"
	documentVersion = 1
	documentHead    = 16 + len(ID{}) + sha256.Size // magic, version, flags, key, salt
	documentTag     = 16
)

// Seal encrypts a document. kind, such as "page map", is bound to it: opened as
// another kind it is damaged.
func (k *Key) Seal(kind string, plain []byte) []byte {
	sub := k.Derive("cocoon document salt", nil)
	h := hmac.New(sha256.New, sub[:])
	h.Write(append([]byte(kind), 0))
	h.Write(plain)
	salt := h.Sum(nil)
	b := make([]byte, 0, documentHead+len(plain)+documentTag)
	b = append(b, documentMagic...)
	b = binary.LittleEndian.AppendUint16(b, documentVersion)
	b = append(b, make([]byte, 6)...)
	b = append(b, k.id[:]...)
	b = append(b, salt...)
	return k.documentAEAD(salt).Seal(b, make([]byte, 12), plain, documentData(kind, b))
}

// IsSealed reports whether b begins as a sealed document does.
func IsSealed(b []byte) bool { return bytes.HasPrefix(b, []byte(documentMagic)) }

// Open decrypts what Seal gave. Errors: failure.Damaged when the bytes are not
// what the key sealed, [Missing] without the key, failure.Incompatible for a
// later version.
func Open(keys Keys, kind string, b []byte) ([]byte, error) {
	if len(b) < documentHead+documentTag || !IsSealed(b) {
		return nil, failure.New(failure.Damaged, "%s: %d bytes are no sealed document", kind, len(b))
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != documentVersion {
		return nil, failure.New(failure.Incompatible, "%s: sealed document of version %d, this program reads %d", kind, v, documentVersion)
	}
	k, err := keys.Key(ID(b[16:24]))
	if err != nil {
		return nil, err
	}
	head := b[:documentHead]
	plain, err := k.documentAEAD(head[24:]).Open(nil, make([]byte, 12), b[documentHead:], documentData(kind, head))
	if err != nil {
		return nil, failure.New(failure.Damaged, "%s: it is not what key %s sealed", kind, k.id)
	}
	return plain, nil
}

// documentData is what is authenticated beside the content.
func documentData(kind string, head []byte) []byte {
	return append(bytes.Clone(head), kind...)
}

func (k *Key) documentAEAD(salt []byte) cipher.AEAD {
	return GCM(k.Derive("cocoon document", salt))
}

// GCM is AES-256-GCM with a subkey.
func GCM(sub [sha256.Size]byte) cipher.AEAD {
	block, err := aes.NewCipher(sub[:])
	if err != nil {
		panic("AES with 32 bytes: " + err.Error()) // no input can cause it
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("GCM: " + err.Error()) // as above
	}
	return aead
}

package pack

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cocoonv2/cocoon/store/keyring"
)

// An encrypted page map is a plain one in a sealed document, which stands in the
// frame of a map: so a program that cannot read it says incompatible.
const (
	mapKind            = "page map"
	sealedMapHeadBytes = 16
)

// EncodeFor gives the map's file, encrypted unless the key is nil.
func (m *Map) EncodeFor(k *keyring.Key) ([]byte, error) {
	plain, err := m.Encode()
	if err != nil || k == nil {
		return plain, err
	}
	le := binary.LittleEndian
	b := le.AppendUint16([]byte(mapMagic), sealedVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, PageSize)
	b = append(b, k.Seal(mapKind, plain)...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// openMap gives the file of the plain map in an encrypted one whose checksum was
// right.
func openMap(body []byte, keys keyring.Keys) ([]byte, error) {
	le := binary.LittleEndian
	if le.Uint16(body[10:]) != 0 || le.Uint32(body[12:]) != PageSize {
		return nil, damaged("page map: flags or page size unknown")
	}
	return keyring.Open(keys, mapKind, body[sealedMapHeadBytes:])
}

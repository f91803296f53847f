package pack

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"

	"github.com/cocoonv2/cocoon/store/keyring"
)

// An encrypted pack (docs/format.md "Encrypted pack") is a head, sealed frames
// and a sealed index. Each pack has a random salt, and from key and salt three
// subkeys of its own: one for its frames, which are numbered, one for its index,
// one that hides where its frames begin. So no nonce can come twice, and without
// the key a pack is a length and a key's id: no page hash, no frame border.
//
// Compressed frames are sealed as the last thing before they are written and
// opened as the first after they were read; all between is as in a plain pack.
const (
	sealedVersion  = 2
	saltBytes      = 32
	sealHeadBytes  = len(packMagic) + len(keyring.ID{}) + saltBytes
	borderBytes    = 8 // before each frame: its length and pages, hidden
	sealTagBytes   = 16
	frameSealBytes = borderBytes + sealTagBytes
)

// seal is what encrypts and opens one pack. Safe for concurrent use.
type seal struct {
	key    keyring.ID
	salt   [saltBytes]byte
	frames cipher.AEAD
	index  cipher.AEAD
	stream cipher.Block // of frames, to read pages of a damaged one
	border cipher.Block
}

// newSeal gives the seal of the pack with this salt.
func newSeal(k *keyring.Key, salt [saltBytes]byte) (*seal, error) {
	frames := k.Derive("cocoon pack frames", salt[:])
	border := k.Derive("cocoon pack borders", salt[:])
	s := &seal{key: k.ID(), salt: salt, frames: keyring.GCM(frames), index: keyring.GCM(k.Derive("cocoon pack index", salt[:]))}
	var err error
	if s.stream, err = aes.NewCipher(frames[:]); err != nil {
		return nil, err
	}
	s.border, err = aes.NewCipher(border[:])
	return s, err
}

// newSealOf opens the seal of a pack for reading.
func newSealOf(keys keyring.Keys, id keyring.ID, salt []byte) (*seal, error) {
	k, err := keys.Key(id)
	if err != nil {
		return nil, err
	}
	return newSeal(k, [saltBytes]byte(salt))
}

// NewIndex begins the index of a pack: one that the key encrypts, with a salt of
// random, or a plain one where the key is nil.
func NewIndex(k *keyring.Key, random io.Reader) (*Index, error) {
	if k == nil {
		return &Index{}, nil
	}
	var salt [saltBytes]byte
	if _, err := io.ReadFull(random, salt[:]); err != nil {
		return nil, err
	}
	s, err := newSeal(k, salt)
	return &Index{seal: s}, err
}

// Head begins the pack; a plain one (nil) has none.
func (ix *Index) Head() []byte {
	s := ix.seal
	if s == nil {
		return nil
	}
	return append(append([]byte(packMagic), s.key[:]...), s.salt[:]...)
}

// headBytes is where the first frame begins.
func (ix *Index) headBytes() int64 {
	s := ix.seal
	if s == nil {
		return 0
	}
	return int64(sealHeadBytes)
}

// Overhead is what sealing adds to a frame.
func (ix *Index) Overhead() int {
	s := ix.seal
	if s == nil {
		return 0
	}
	return frameSealBytes
}

// borderOf is what stands before a frame, in the clear: its sealed length
// without the border, and its pages.
func borderOf(sealed, pages int) (b [borderBytes]byte) {
	binary.LittleEndian.PutUint32(b[:], uint32(sealed))
	binary.LittleEndian.PutUint32(b[4:], uint32(pages))
	return b
}

// hide turns a border into its hidden form and back.
func (s *seal) hide(b [borderBytes]byte, number int) (out [borderBytes]byte) {
	var mask [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(mask[:], uint64(number))
	s.border.Encrypt(mask[:], mask[:])
	for i := range out {
		out[i] = b[i] ^ mask[i]
	}
	return out
}

// nonce of a frame or, with number 0, of the index, which has a subkey of its own.
func nonce(number int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(number))
}

// CloseFrame seals a compressed frame in its own buffer, which may grow, and gives
// the border to be written before it. A plain pack leaves it as it is.
func (ix *Index) CloseFrame(compressed []byte, number, pages int) (border, sealed []byte) {
	s := ix.seal
	if s == nil {
		return nil, compressed
	}
	b := borderOf(len(compressed)+sealTagBytes, pages)
	hidden := s.hide(b, number)
	return hidden[:], s.frames.Seal(compressed[:0], nonce(number), compressed, b[:])
}

// open gives the compressed bytes of frame number i; those of a sealed one are
// decrypted in place.
func (ix *Index) open(i int, stored []byte) ([]byte, error) {
	s := ix.seal
	if s == nil {
		return stored, nil
	}
	b := borderOf(len(stored)-borderBytes, int(ix.Frames[i].Pages))
	sealed := stored[borderBytes:]
	plain, err := s.frames.Open(sealed[:0], nonce(i), sealed, b[:])
	if err != nil {
		return nil, damaged("it is not what key %s sealed", s.key)
	}
	return plain, nil
}

// openDamaged decrypts a frame into a buffer of its own as far as that goes, and
// says whether it is intact. What it gives of a damaged one may be anything.
func (ix *Index) openDamaged(i int, stored []byte) (compressed []byte, intact bool) {
	s, f := ix.seal, ix.Frames[i]
	if s == nil {
		return stored, len(stored) == int(f.Bytes)
	}
	if len(stored) <= frameSealBytes {
		return nil, false
	}
	b := borderOf(int(f.Bytes)-borderBytes, int(f.Pages))
	if len(stored) == int(f.Bytes) && s.hide([borderBytes]byte(stored), i) == b {
		if plain, err := s.frames.Open(nil, nonce(i), stored[borderBytes:], b[:]); err == nil {
			return plain, true
		}
	}
	compressed = bytes.Clone(stored[borderBytes:min(len(stored), int(f.Bytes)-sealTagBytes)])
	// GCM encrypts by CTR, from the counter 2 behind a nonce of 12 bytes.
	cipher.NewCTR(s.stream, append(nonce(i), 0, 0, 0, 2)).XORKeyStream(compressed, compressed)
	return compressed, false
}

// sealedIndexBytes is the length of an encrypted index, tail included.
func sealedIndexBytes(frames, pages int) int64 {
	return int64(saltBytes + 8 + frames*frameEntry + pages*hashBytes + sealTagBytes + packTailBytes)
}

// EncodedBytes is the length of the index of a pack under this seal.
func (ix *Index) EncodedBytes(frames, pages int) int64 {
	s := ix.seal
	if s == nil {
		return indexBytes(frames, pages)
	}
	return sealedIndexBytes(frames, pages)
}

// closeIndex gives the end of a pack whose head and frames take at bytes.
func (s *seal) closeIndex(ix *Index, at int64) []byte {
	le := binary.LittleEndian
	table := le.AppendUint32(nil, uint32(len(ix.Frames)))
	table = le.AppendUint32(table, uint32(len(ix.Hashes)))
	table = ix.appendTables(table)
	tail := le.AppendUint64(nil, uint64(at))
	tail = append(tail, s.key[:]...)
	tail = le.AppendUint32(tail, PageSize)
	tail = le.AppendUint16(tail, sealedVersion)
	tail = le.AppendUint16(tail, 0)
	b := s.index.Seal(s.salt[:], nonce(0), table, tail)
	return finishIndex(append(b, tail...))
}

// openIndex parses the end b of an encrypted pack that begins at offset at. Its
// checksum and tail were checked.
func openIndex(b []byte, at int64, keys keyring.Keys) (*Index, error) {
	le := binary.LittleEndian
	if int64(len(b)) < sealedIndexBytes(1, 1) || at < int64(sealHeadBytes) {
		return nil, damaged("pack index: %d bytes at %d of an encrypted pack", len(b), at)
	}
	tail := b[len(b)-packTailBytes:]
	s, err := newSealOf(keys, keyring.ID(tail[8:16]), b[:saltBytes])
	if err != nil {
		return nil, err
	}
	table, err := s.index.Open(nil, nonce(0), b[saltBytes:len(b)-packTailBytes], tail[:tailSumAt])
	if err != nil {
		return nil, damaged("pack index: it is not what key %s sealed", s.key)
	}
	frames, pages := int64(le.Uint32(table)), int64(le.Uint32(table[4:]))
	if err := countsFit(frames, pages, func() bool { return sealedIndexBytes(int(frames), int(pages)) == int64(len(b)) }); err != nil {
		return nil, err
	}
	return decodeTables(table[8:], frames, pages, at, s)
}

// reseal reads the head of a damaged pack, b being all of it; nil when it is a
// plain one.
func reseal(b []byte, keys keyring.Keys) (*seal, error) {
	if len(b) < sealHeadBytes || !bytes.HasPrefix(b, []byte(packMagic)) {
		return nil, nil
	}
	return newSealOf(keys, keyring.ID(b[8:16]), b[16:sealHeadBytes])
}

// frameLength is that of the frame at the beginning of b, and its pages, by its
// border; 0 when there is none.
func (s *seal) frameLength(b []byte, number int) (n, pages int) {
	if len(b) < borderBytes {
		return 0, 0
	}
	border := s.hide([borderBytes]byte(b), number)
	length := int64(binary.LittleEndian.Uint32(border[:]))
	pages = int(binary.LittleEndian.Uint32(border[4:]))
	if length <= sealTagBytes || length > MaxFrameBytes+sealTagBytes || length > int64(len(b)-borderBytes) || pages < 1 || pages > FramePages {
		return 0, 0
	}
	return int(length) + borderBytes, pages
}

// IsSealed tells an encrypted pack, and an encrypted page map, by how it begins.
func IsSealed(head []byte) bool {
	if bytes.HasPrefix(head, []byte(packMagic)) {
		return true
	}
	return len(head) >= len(mapMagic)+2 && bytes.HasPrefix(head, []byte(mapMagic)) && binary.LittleEndian.Uint16(head[len(mapMagic):]) >= sealedVersion
}

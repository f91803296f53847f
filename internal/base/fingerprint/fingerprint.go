// Package fingerprint tells whether a page is unchanged, for less than a hash
// costs, even though guests choose the contents of their pages.
//
// A fingerprint ([Print]) is a message authentication code: NH, the universal
// hash of UMAC (RFC 4418), under a secret key, four times with the key shifted by
// one pair of words each time (Toeplitz), then AES-256 in CBC-MAC over the four
// sums. Without the key, two pages get the same fingerprint only by chance: NH
// gives 2^-128 for every pair of different pages, AES about as much on top.
// Hashes without a key, however fast, promise nothing of that kind.
//
// So a fingerprint can say "this page did not change", and nothing else: it has
// no meaning without the [Key], and does not identify a page as its SHA-256 does.
// Prints of one page under different numbers differ, and prints reveal nothing
// about the contents of a page.
//
// A Key belongs to one boot of one host ([Load]): it is derived from a secret in
// the run folder and the kernel's boot id. Whatever was stored under it is
// useless after a reboot, so it need not be fsynced, and a stolen disk lacks it.
// docs/adr/0023 has the figures.
package fingerprint

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	// PageBytes is what one pass of NH takes; content is cut into pieces of this
	// size.
	PageBytes = 4096
	// Bytes is the length of a Print.
	Bytes = aes.BlockSize
	// SecretBytes is the length of what a Key is made from.
	SecretBytes = 32

	words    = PageBytes / 4
	passes   = 4
	keyWords = words + 2*(passes-1) // each pass begins one pair later
	aesBytes = 32
	idBytes  = 16
)

// Print is a fingerprint.
type Print = [Bytes]byte

// Key makes fingerprints. It is safe for concurrent use.
type Key struct {
	nh    [keyWords]uint32
	block cipher.Block
	id    [idBytes]byte
}

// New makes the key of a secret and a salt; both decide it.
func New(secret [SecretBytes]byte, salt string) (*Key, error) {
	const need = 4*keyWords + aesBytes + idBytes
	stream, err := hkdf.Key(sha256.New, secret[:], []byte(salt), "cocoon fingerprints 1", need)
	if err != nil {
		return nil, fmt.Errorf("make fingerprint key: %w", err)
	}
	k := &Key{}
	for i := range k.nh {
		k.nh[i] = binary.LittleEndian.Uint32(stream[4*i:])
	}
	rest := stream[4*keyWords:]
	if k.block, err = aes.NewCipher(rest[:aesBytes]); err != nil {
		return nil, fmt.Errorf("make fingerprint key: %w", err)
	}
	copy(k.id[:], rest[aesBytes:])
	return k, nil
}

// ID distinguishes keys and reveals nothing about them.
func (k *Key) ID() [idBytes]byte { return k.id }

// Of is the fingerprint of the content with this number: a page of an image or a
// block of a disk. Content that is not a whole number of pages counts as padded
// with zeros, so prints are only compared between contents of one length.
func (k *Key) Of(content []byte, number uint64) Print {
	var p Print
	k.Make(&p, content, number)
	return p
}

// Make is Of without allocations, for callers that make very many.
func (k *Key) Make(p *Print, content []byte, number uint64) {
	*p = Print{}
	binary.LittleEndian.PutUint64(p[:], number)
	for ; len(content) >= PageBytes; content = content[PageBytes:] {
		k.add(p, (*[PageBytes]byte)(content))
	}
	if len(content) > 0 {
		var last [PageBytes]byte
		copy(last[:], content)
		k.add(p, &last)
	}
}

// add chains the sums of a page to p, two at a time.
func (k *Key) add(p *Print, page *[PageBytes]byte) {
	sums := nh(&k.nh, page)
	for i := 0; i < passes; i += 2 {
		binary.LittleEndian.PutUint64(p[:], binary.LittleEndian.Uint64(p[:])^sums[i])
		binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(p[8:])^sums[i+1])
		k.block.Encrypt(p[:], p[:])
	}
}

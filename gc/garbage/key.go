package garbage

import (
	"encoding/hex"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Key identifies something that can be needed, small enough for a million of
// them: a digest, the id of a VM or a snapshot, or the RAM of snapshots. The zero
// value names nothing.
type Key struct {
	kind byte // 'd', 'v', 's', 'r'
	id   [32]byte
}

// ParseKey reads "sha256:<64 hex>", "vm:<32 hex>" and "snapshot:<32 hex>".
func ParseKey(s string) (Key, bool) {
	switch kind, id, _ := strings.Cut(s, ":"); kind {
	case "sha256":
		return BlobKey(id)
	case "vm":
		return VMKey(id)
	case "snapshot":
		return SnapshotKey(id)
	default:
		return Key{}, false
	}
}

// BlobKey is that of a blob or image by the name of its file, 64 hex digits.
func BlobKey(name string) (Key, bool) { return key('d', 32, name) }

// VMKey is that of a VM by its id.
func VMKey(id string) (Key, bool) { return key('v', 16, id) }

// SnapshotKey is that of a snapshot by its id.
func SnapshotKey(id string) (Key, bool) { return key('s', 16, id) }

// RAMKey is that of the RAM of snapshots, in whatever form; d identifies it.
func RAMKey(d digest.Digest) (Key, bool) {
	if d.Validate() != nil {
		return Key{}, false
	}
	return key('r', 32, d.Encoded())
}

// DigestKey is that of what has a digest.
func DigestKey(d digest.Digest) (Key, bool) { return ParseKey(string(d)) }

// key reads the id of n bytes of an object.
func key(kind byte, n int, id string) (Key, bool) {
	k := Key{kind: kind}
	if len(id) != 2*n {
		return Key{}, false
	}
	if _, err := hex.Decode(k.id[:], []byte(id)); err != nil {
		return Key{}, false
	}
	return k, true
}

// Digest of a blob.
func (k Key) Digest() digest.Digest { return digest.NewDigestFromBytes(digest.SHA256, k.id[:]) }

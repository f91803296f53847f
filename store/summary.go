package store

import (
	"context"
	"errors"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Index lists the snapshots.
func (s *Store) Index() *index.Index { return index.Of(s.at, s.forIndex, s.opens) }

// opens says whether a key is at hand.
func (s *Store) opens(key string) bool {
	id, err := keyring.ParseID(key)
	if err == nil {
		_, err = s.Key(id)
	}
	return err == nil
}

// forIndex reads what the index says of a snapshot, of a damaged one what is left.
func (s *Store) forIndex(ctx context.Context, id ID) (c index.Found, err error) {
	c.Snapshot, err = s.Get(ctx, id)
	if errors.Is(err, failure.NotFound) && s.stands(id) || errors.Is(err, failure.Damaged) || errors.Is(err, failure.Incompatible) {
		c.Snapshot, err = s.remains(ctx, id), nil
	}
	if err != nil {
		return index.Found{}, err
	}
	c.ZeroBytes, c.Whole = s.zeroRAM(ctx, c.Snapshot)
	c.Whole = c.Whole && c.State != Damaged
	return c, nil
}

// stands says whether the folder of a snapshot is there, whatever is missing in it.
func (s *Store) stands(id ID) bool {
	_, err := os.Lstat(s.Path("snapshots", string(id)))
	return err == nil
}

// remains is what can still be read of a damaged snapshot: each of its parts has
// something to tell without the others.
func (s *Store) remains(ctx context.Context, id ID) *Snapshot {
	sn := &Snapshot{ID: id, Dir: s.Path("snapshots", string(id))}
	if b, err := document.ManifestFile.Read(sn.Dir + "/manifest.json"); err != nil || sn.ReadManifest(b) != nil {
		sn.Manifest = ocispec.Manifest{}
	} else if s.readSpec(ctx, sn) != nil {
		sn.Spec = Spec{}
	}
	if m, err := readMeta(sn.Dir); err == nil {
		sn.Meta = m
	}
	sn.State = Damaged
	return sn
}

// zeroRAM asks the page maps of RAM: what a capture counts are zero pages of disks
// too. Without the key, or where they are damaged, they are not whole; a list is not
// where that is told.
func (s *Store) zeroRAM(ctx context.Context, sn *Snapshot) (bytes index.Bytes, whole bool) {
	if sn.Spec.ID == "" { // it could not be read
		return index.UnknownBytes, false
	}
	for _, r := range sn.Spec.Memory {
		m, err := contents.Of(s, sn).Map(ctx, r.Map)
		if err != nil {
			return index.UnknownBytes, false
		}
		zero, _ := m.Stat()
		bytes += index.Bytes(zero) * pack.PageSize
	}
	return bytes, true
}

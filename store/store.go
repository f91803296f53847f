// Package store keeps snapshots as first-class objects on disk.
//
// Words: a snapshot is a folder snapshots/<id> whose manifest.json (an OCI
// image manifest) names everything it needs by digest; a blob is an immutable
// file blobs/sha256/<hex>; an ingest is an unpublished write, owned by a
// lease; a lease is a locked file that says what a living process holds;
// commit is the one rename that makes a snapshot exist.
//
// Here a snapshot is published, read, replaced and removed, and nothing else is. What
// needs no snapshot is below: the folder (package layout), leases (lease), names
// (names), free space (space), the way out (trash), lists (index). So is what a
// snapshot says (document) and is made of (contents). A Store leads to each of them.
//
//	format                 {"format":"cocoon-store","version":1}; 2 where snapshots
//	                       are encrypted
//	identity               which of the stores of this host it is: package owner
//	gate.lock store.lock   taken in this order, for instants; never unlinked
//	names.lock             makes "is the name free" and the rename one step
//	snapshots/<id>/        manifest.json, meta.json
//	blobs/sha256/<hex>     packs, page maps, CH config and state, specs
//	images/ vms/ pins/ cache/ journals/ network/   of other rooms
//	cache/fingerprints/<hex>   which pages did not change: package prints
//	names/<name>           a link to the snapshot of that name: package names
//	refs.db                what each snapshot is, for listings: package index
//	ingest/<lease>/ leases/<id> trash/<run>/
//
// Invariants:
//
//  1. A digest is written to the lease before anyone looks whether its blob
//     exists; so what a living process reuses is a root of the collector.
//  2. No snapshot is published before every blob that it names has been
//     fsynced and looked at again.
//  3. Publishing and removing are one rename each; what follows is best effort.
//  4. Nothing derived (caches, indexes) decides what is kept.
//  5. A store of unknown version, on a network file system, or writable by
//     others is refused before anything is read from it.
package store

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/lease"
	"github.com/cocoonv2/cocoon/store/space"
	"github.com/cocoonv2/cocoon/store/trash"
)

// Options of Open.
type Options struct {
	Create bool // make the store if the folder is missing or empty; else failure.NotFound
	// MaxBytes is a cap on blobs/sha256; 0 is none. Nothing that would pass it is
	// begun where that can be foreseen, or ends with failure.NoSpace.
	MaxBytes int64
	// Keys open encrypted snapshots, the first seals new ones. Nil is none.
	Keys *keyring.Ring
	// Veto refuses to remove a snapshot that another room needs, such as the RAM of
	// a suspended VM, by force too. It is asked when no lease holds the snapshot.
	// Without one nothing is removed: to forget it would cost a VM its RAM.
	Veto func(context.Context, *Store, ID) error
}

// Store is an open store. It holds no lock and no descriptor between calls.
type Store struct {
	at        *layout.Layout
	maxBytes  int64
	keys      *keyring.Ring
	veto      func(context.Context, *Store, ID) error
	onReplace func(old, now *Snapshot, live []lease.Holding) error
}

// What else a store reads and writes whole; its documents are package document's.
var (
	blobDocument = durable.Document{Name: "blob", Limit: document.BlobLimit}
	noteDocument = durable.Document{Name: "note of damage", Limit: 0}
)

// Open checks the store at root, which may be a link to where it lies, and makes
// it first if asked to. failure.NotFound where there is none.
func Open(ctx context.Context, root string, o Options) (*Store, error) {
	at, err := layout.Open(ctx, root, o.Create)
	if err != nil {
		return nil, err
	}
	return &Store{at: at, maxBytes: o.MaxBytes, keys: o.Keys, veto: o.Veto}, nil
}

// Root is the store's folder.
func (s *Store) Root() string { return s.at.Root() }

// Path joins elements below the root.
func (s *Store) Path(elem ...string) string { return s.at.Path(elem...) }

// Owner is the mark of this store on what it makes outside of its folder.
func (s *Store) Owner(ctx context.Context) (layout.Mark, error) { return s.at.Owner(ctx) }

// Trash is how things leave the store.
func (s *Store) Trash() *trash.Trash { return trash.In(s.at) }

// Space is the room that the store has.
func (s *Store) Space() space.Space { return space.Of(s.at, s.maxBytes, s.Leases().Lives) }

// OnReplace sets what goes along when a snapshot is replaced by one that names
// other blobs, in the instant in which nobody leases, publishes or removes: live is
// who holds what. It is short.
func (s *Store) OnReplace(f func(old, now *Snapshot, live []lease.Holding) error) { s.onReplace = f }

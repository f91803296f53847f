// Package registry moves snapshots between stores: to and from OCI registries,
// and to and from OCI image layouts (a folder or a tar file).
//
// A snapshot's manifest is an OCI manifest already and its blobs are what the
// manifest names, so nothing is re-encoded: push and export copy bytes, and a
// snapshot has the same manifest digest everywhere.
//
// The images of a snapshot (kernel, firmware, read-only base disks) are not in
// that manifest, since many snapshots share them. They travel in a second
// manifest, the bundle, of artifact type [ArtifactTypeImages]; its subject is the
// snapshot's manifest, so a registry's referrers API, or the tag that replaces
// it, finds it. The bundle may be left out: the receiving store then needs the
// images.
//
// A registry may fail, fall silent and lie, and an archive may come from anybody
// in any shape: patience.go says what is retried, watched.go when a request is
// too slow, guarded.go where a password may go, fetch.go how an interrupted
// download resumes, layoutread.go and archive.go what is read from a layout and
// an archive, here.go when a snapshot counts as already here.
//
// Invariants: a blob is leased before it is looked for and skipped only if it
// exists; every received byte is compared with its digest before it gets a name;
// nothing is published before everything is here and was opened once; a record
// with arguments for the VMM, which could name any file of this host, is accepted
// only with the operator's consent.
package registry

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/store"
)

// Media types of the bundle.
const (
	ArtifactTypeImages = "application/vnd.cocoon.images.v1"
	MediaTypeImage     = "application/vnd.cocoon.image.v1"

	// roleAnnotation of a layer of the bundle: kernel, firmware, initramfs, disk.
	roleAnnotation = "io.cocoon.image.role"
)

// Mover moves snapshots of one store.
type Mover struct {
	Store  *store.Store
	Images *image.Store
	// Concurrency is how many blobs are under way at once; 0 is 4.
	Concurrency int
	// PlainHTTP uses http; for loopback registries that is always so.
	PlainHTTP bool
	// Idle aborts a request that transfers next to nothing for so long; 0 waits
	// for ever.
	Idle    time.Duration
	OnBytes func(done, total int64) // progress in bytes of blobs; may be nil

	once  sync.Once
	base  http.RoundTripper                          // nil: made on first use
	pause func(context.Context, time.Duration) error // between two tries; nil: it sleeps
}

func (m *Mover) concurrency() int {
	if m.Concurrency > 0 {
		return m.Concurrency
	}
	return 4
}

// outgoing is a snapshot on its way out: the two manifests and where the bytes
// of every blob are.
type outgoing struct {
	m        *Mover
	snapshot ocispec.Descriptor
	bundle   *ocispec.Descriptor // nil: no images, or not wanted
	inline   map[digest.Digest][]byte
	images   map[digest.Digest]bool
	layers   []ocispec.Descriptor                   // of both, each digest once
	below    map[digest.Digest][]ocispec.Descriptor // those that each of the two brings
}

// open gives the bytes of a blob or manifest.
func (o *outgoing) open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	return o.m.openBlob(ctx, d, o.inline, o.images)
}

package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// What comes from elsewhere was perhaps made to cost as much as can be: the work
// and the memory that it takes grow with the bytes that come, and each of its
// parts is bounded before it is looked at (docs/transfer.md, "Bounds").
const (
	foreignLayers = 1 << 16 // blobs of a manifest; 16,384 are a TiB of packs

	foreignSpecBytes   = 4 << 20
	foreignConfigBytes = 4 << 20  // of the VMM
	foreignStateBytes  = 64 << 20 // of the VMM, some 60 KB a processor
	foreignMapBytes    = wholeBlobLimit

	foreignRanges   = 1024 // of RAM
	foreignDisks    = 1024
	foreignImages   = 1024
	foreignNetworks = 256

	// foreignRuns of all page maps together, and one more for each 16 bytes of
	// packs, which is what the hash of a page takes: 64 GiB of pages of which no two
	// neighbours stand side by side in a pack. A reader has 24 bytes for each.
	foreignRuns   = 1 << 24
	packPageBytes = 16
)

// DecodeManifest reads a manifest made elsewhere, without its blobs.
func DecodeManifest(b []byte) (*Snapshot, error) {
	if int64(len(b)) > ManifestLimit {
		return nil, failure.New(failure.Damaged, "manifest of %d bytes", len(b))
	}
	sn := &Snapshot{State: Ready}
	if err := sn.readManifest(b); err != nil {
		return nil, err
	}
	m := &sn.Manifest
	if len(m.Layers) > foreignLayers || m.Config.Size > foreignSpecBytes {
		return nil, failure.New(failure.Damaged, "manifest: %d layers, config of %d bytes", len(m.Layers), m.Config.Size)
	}
	for _, l := range m.Layers {
		if l.MediaType == MediaTypePack && l.Size > pack.MaxPackBytes {
			return nil, failure.New(failure.Damaged, "manifest: pack %s of %d bytes", l.Digest, l.Size)
		}
	}
	return sn, nil
}

// ReadSpec reads the spec of a snapshot from elsewhere; its manifest is known. The
// bytes are of the digest that this names.
func (sn *Snapshot) ReadSpec(b []byte) error {
	if len(b) > foreignSpecBytes {
		return failure.New(failure.Damaged, "snapshot config of %d bytes", len(b))
	}
	sp, err := decodeSpec(b)
	if err != nil {
		return err
	}
	sn.Spec, sn.ID = sp, sp.ID
	for _, n := range []struct {
		what     string
		has, may int
	}{{"RAM ranges", len(sp.Memory), foreignRanges}, {"disks", len(sp.Disks), foreignDisks}, {"images", len(sp.Images), foreignImages}, {"networks", len(sp.Networks), foreignNetworks}} {
		if n.has > n.may {
			return failure.New(failure.Damaged, "snapshot config: %d %s, at most %d are taken from elsewhere", n.has, n.what, n.may)
		}
	}
	return sn.boundDocuments()
}

// boundDocuments holds what will be parsed to sizes that it can have.
func (sn *Snapshot) boundDocuments() error {
	sizes := map[digest.Digest]int64{}
	for _, l := range sn.Manifest.Layers {
		sizes[l.Digest] = max(sizes[l.Digest], l.Size)
	}
	most := map[digest.Digest]int64{sn.Spec.CHConfig: foreignConfigBytes}
	least := func(d digest.Digest, n int64) {
		if have, ok := most[d]; !ok || n < have {
			most[d] = n
		}
	}
	least(sn.Spec.CHState, foreignStateBytes)
	for _, d := range sn.Spec.PageMaps() {
		least(d, foreignMapBytes)
	}
	for d, n := range most {
		if sizes[d] > n {
			return failure.New(failure.Damaged, "blob %s has %d bytes, at most %d are taken of its kind from elsewhere", d, sizes[d], n)
		}
	}
	return nil
}

// whole checks of a snapshot from elsewhere that the manifest names every blob of
// the spec and every pack of its page maps, and that these can be opened. Without
// the key of an encrypted snapshot only its blobs are known to be what the manifest
// names; that a map names a pack which is not there then shows at the restore.
func (s *Store) whole(ctx context.Context, sn *Snapshot) error {
	if err := sn.Spec.standsOn(sn.Manifest.Layers); err != nil {
		return err
	}
	if err := s.Unlock(ctx, sn); keyring.IsMissing(err) {
		return nil
	} else if err != nil {
		return err
	}
	c := newForeignMaps(s, sn)
	for _, m := range sn.Spec.Memory {
		if err := c.check(ctx, mapOf{m.Map, m.Bytes}); err != nil {
			return fmt.Errorf("RAM at %#x: %w", m.GPA, err)
		}
	}
	for _, d := range sn.Spec.Disks {
		if d.Map == "" {
			continue
		}
		if err := c.check(ctx, mapOf{d.Map, uint64(d.Bytes)}); err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	return nil
}

// mapOf is the page map of an image of so many bytes.
type mapOf struct {
	digest digest.Digest
	bytes  uint64
}

// foreignMaps checks the page maps of one snapshot: each map and each pack's index
// is read once, however often it is named.
type foreignMaps struct {
	st    *Store
	sn    *Snapshot
	named map[digest.Digest]bool
	pages map[digest.Digest]uint32 // of the packs that were opened
	done  map[mapOf]bool
	runs  uint64 // that may still come
}

func newForeignMaps(s *Store, sn *Snapshot) *foreignMaps {
	c := &foreignMaps{st: s, sn: sn, named: map[digest.Digest]bool{}, pages: map[digest.Digest]uint32{}, done: map[mapOf]bool{}, runs: foreignRuns}
	for _, l := range sn.Manifest.Layers {
		if !c.named[l.Digest] && l.MediaType == MediaTypePack {
			c.runs += uint64(l.Size) / packPageBytes
		}
		c.named[l.Digest] = true
	}
	return c
}

func (c *foreignMaps) check(ctx context.Context, m mapOf) error {
	if c.done[m] {
		return nil
	}
	b, err := c.st.ReadBlob(ctx, m.digest)
	if err != nil {
		return asDamage(err)
	}
	runs, err := pack.CheckMap(ctx, b, c.st.opener(c.sn), pack.MapCheck{
		Bytes: m.bytes, Runs: c.runs,
		Pages: func(ctx context.Context, packs []digest.Digest) ([]uint32, error) { return c.open(ctx, m, packs) },
	})
	if err != nil {
		return fmt.Errorf("page map %s: %w", m.digest, err)
	}
	c.runs -= runs
	c.done[m] = true
	return nil
}

// open reads the indexes of packs that were not read yet, side by side.
func (c *foreignMaps) open(ctx context.Context, m mapOf, packs []digest.Digest) ([]uint32, error) {
	var fresh []digest.Digest
	for _, p := range packs {
		if !c.named[p] {
			return nil, failure.New(failure.Damaged, "the manifest does not name pack %s of page map %s", p, m.digest)
		}
		if _, ok := c.pages[p]; !ok {
			c.pages[p] = 0
			fresh = append(fresh, p)
		}
	}
	found := make([]uint32, len(fresh))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range fresh {
		g.Go(func() (err error) {
			found[i], err = c.pagesOf(gctx, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, p := range fresh {
		c.pages[p] = found[i]
	}
	pages := make([]uint32, len(packs))
	for i, p := range packs {
		pages[i] = c.pages[p]
	}
	return pages, nil
}

func (c *foreignMaps) pagesOf(ctx context.Context, d digest.Digest) (uint32, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	f, size, err := c.st.OpenPack(ctx, d)
	if err != nil {
		return 0, err
	}
	ix, err := pack.ReadIndex(f, size, c.st.opener(c.sn))
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("pack %s: %w", d, err)
	}
	return uint32(len(ix.Hashes)), nil
}

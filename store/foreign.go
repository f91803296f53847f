package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// The page maps of what comes from elsewhere are bounded as its documents are
// (package document): foreignRuns of all maps together, and one more for each 16
// bytes of packs, which is what the hash of a page takes: 64 GiB of pages of which no
// two neighbours stand side by side in a pack. A reader has 24 bytes for each.
const (
	foreignRuns   = 1 << 24
	packPageBytes = 16
)

// whole checks of a snapshot from elsewhere that the manifest names every blob of
// the spec and every pack of its page maps, and that these can be opened. Without
// the key of an encrypted snapshot only its blobs are known to be what the manifest
// names; that a map names a pack which is not there then shows at the restore.
func (s *Store) whole(ctx context.Context, sn *Snapshot) error {
	if err := sn.Spec.StandsOn(sn.Manifest.Layers); err != nil {
		return err
	}
	if err := contents.Of(s, sn).Unlock(ctx); keyring.IsMissing(err) {
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
		return contents.AsDamage(err)
	}
	runs, err := pack.CheckMap(ctx, b, contents.Of(c.st, c.sn).Source(), pack.MapCheck{
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
	ix, err := pack.ReadIndex(f, size, contents.Of(c.st, c.sn).Source())
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("pack %s: %w", d, err)
	}
	return uint32(len(ix.Hashes)), nil
}

package store

import (
	"context"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// The family of a snapshot are the snapshots of other VMs, and of the same one,
// that stand on the same image: their pages repeat, at other addresses. The index
// says which they are; a publish appends to it, so that nobody need list before.
// What the index does not say, or says wrongly, costs reuse and nothing else: a
// page is reused when its hash stands in the checksummed index of a pack that is
// there and that the lease holds.

const (
	// familyPages bounds the pages of a family that one capture knows: 4 GiB of
	// guest RAM that is not zero, 24 MiB of our own.
	familyPages = 1 << 20
	// familyPacks bounds the files that are open for them: a VM that is captured
	// often and changes little has many small packs.
	familyPacks = 256
)

// openFamily opens the packs of the family, most recent first, up to the bounds
// above; the lease holds each before it is looked for. What cannot be
// read only costs reuse. Packs that came from elsewhere are none of them: a page is
// reused for its hash in the index, and there that is the word of whoever made the pack.
// So one pulled snapshot could not be what others are lost by. key is the id of the one that its pages are encrypted
// with, "" for none: others are not reused.
func (in *Ingest) openFamily(ctx context.Context, images []ImageRef, key string) []packer.Known {
	var known []packer.Known
	pages := 0
	full := func() bool { return pages >= familyPages || len(known) == familyPacks }
	seen := map[ID]bool{}
	tried := map[digest.Digest]bool{}
	for _, id := range in.st.Index().Family(ctx, images) {
		if seen[id] {
			continue
		}
		if seen[id] = true; len(seen) > index.FamilyMembers {
			break
		}
		sn, err := in.st.Get(ctx, id)
		if err != nil || sn.State != Ready || sn.Spec.Key != key || !sn.CapturedHere() {
			continue
		}
		var packs []digest.Digest
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == MediaTypePack && !tried[l.Digest] {
				tried[l.Digest] = true
				packs = append(packs, l.Digest)
			}
		}
		if in.lease.Hold(ctx, packs...) != nil {
			break
		}
		for some := range slices.Chunk(packs, openedAtOnce) {
			for _, k := range in.openKnown(ctx, some) {
				if full() {
					_ = k.File.Close()
					continue
				}
				known = append(known, k)
				pages += len(k.Index.Hashes)
			}
			if full() {
				return known
			}
		}
	}
	return known
}

// openedAtOnce bounds what is opened for nothing when the bounds are met.
const openedAtOnce = 16

// openKnown opens packs side by side, without those that cannot be read.
func (in *Ingest) openKnown(ctx context.Context, packs []digest.Digest) []packer.Known {
	opened := make([]packer.Known, len(packs))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, d := range packs {
		g.Go(func() error {
			if k, err := packer.OpenKnown(ctx, d, in.st); err == nil {
				opened[i] = k
			}
			return nil
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(opened, func(k packer.Known) bool { return k.Index == nil })
}

package repack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// mover moves the live pages of some packs.
type mover struct {
	m     *store.Maintenance
	st    *store.Store
	plan  *Plan
	batch []*PackUse
	res   *Result

	in    *store.Ingest
	move  *packer.Move
	going map[digest.Digest]*PackUse
	maps  map[digest.Digest]*movedMap // by the digest of the old one
}

// movedMap is a page map as it is now.
type movedMap struct {
	store.Descriptor
	packs []digest.Digest
}

func newMover(ctx context.Context, m *store.Maintenance, p *Plan, l *store.Lease, batch []*PackUse, res *Result) (*mover, error) {
	in, err := p.st.Ingest(ctx, l)
	if err == nil {
		err = in.Use(batch[0].key)
	}
	if err != nil {
		return nil, err
	}
	r := &mover{m: m, st: p.st, plan: p, batch: batch, res: res, in: in, going: map[digest.Digest]*PackUse{}, maps: map[digest.Digest]*movedMap{}}
	for _, u := range batch {
		r.going[u.ID] = u
	}
	return r, nil
}

func (r *mover) run(ctx context.Context) error {
	if err := r.reserve(ctx); err != nil {
		return err
	}
	if err := r.movePages(ctx); err != nil {
		return err
	}
	durable.Step("store.repack.packed")
	for _, id := range r.affected() {
		err := r.replace(ctx, id)
		switch {
		case err == nil:
		case errors.Is(err, failure.Conflict), errors.Is(err, store.ErrChanged), stayBehind(err):
			r.stays(id, err)
		default:
			return err
		}
	}
	return ctx.Err()
}

// affected are the snapshots that name a pack of the batch.
func (r *mover) affected() (ids []store.ID) {
	for _, u := range r.batch {
		ids = append(ids, u.Snapshots...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (r *mover) stays(id store.ID, why error) {
	for _, u := range r.batch {
		if u.Why == "" && slices.Contains(u.Snapshots, id) {
			u.Why = fmt.Sprintf("snapshot %s: %v", id, why)
		}
	}
}

// documentBytes is what a snapshot's new spec, manifest and folder may take.
const documentBytes = 256 << 10

// reserve sets aside what the new packs and documents may need at worst.
func (r *mover) reserve(ctx context.Context) error {
	var need int64
	for _, u := range r.batch {
		need += u.most + u.most/16
	}
	seen := map[digest.Digest]bool{}
	for _, id := range r.affected() {
		sn, err := r.st.Get(ctx, id)
		if errors.Is(err, failure.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		need += documentBytes + int64(2*len(sn.Manifest.Layers)*256)
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == store.MediaTypePageMap && !seen[l.Digest] {
				seen[l.Digest] = true
				need += 2 * l.Size
			}
		}
	}
	return r.in.Reserve(need)
}

// movePages stores the live pages of the batch in new packs.
func (r *mover) movePages(ctx context.Context) error {
	known, err := r.elsewhere(ctx)
	if err != nil {
		return err
	}
	key, err := r.in.Key()
	if err != nil {
		return err
	}
	w := packer.NewWriter(ctx, r.in, packer.WriterOptions{Level: pack.Better, Family: known, KeepFrames: true, Key: key})
	defer w.Abort()
	var order []digest.Digest
	live := map[digest.Digest]*pack.Live{}
	for _, u := range r.batch {
		order, live[u.ID] = append(order, u.ID), u.live
	}
	if r.move, err = packer.NewMove(w, order, live); err != nil {
		return err
	}
	for _, u := range r.batch {
		if err := r.take(ctx, u); err != nil {
			return err
		}
	}
	stats, err := w.Flush(ctx)
	if err != nil {
		return err
	}
	r.res.WrittenBytes += stats.StoredBytes
	return r.move.Finish()
}

func (r *mover) take(ctx context.Context, u *PackUse) error {
	f, ix, err := openIndex(ctx, r.st, u.ID, slices.Contains(r.plan.o.Only, u.ID))
	if err == nil {
		err = errors.Join(r.move.Take(f, u.ID, ix, r.plan.o.CopyOf), f.Close())
	}
	if errors.Is(err, failure.Damaged) {
		return &badPack{u, err}
	}
	return errors.Join(err, ctx.Err())
}

// elsewhere finds which of the pages that move stand in packs that stay, such as
// those that a run before this one wrote. Only what was read and is right counts:
// the copy that moves may be the last good one.
func (r *mover) elsewhere(ctx context.Context) ([]packer.Known, error) {
	want := map[pack.Hash]bool{}
	for _, u := range r.batch {
		f, ix, err := openIndex(ctx, r.st, u.ID, slices.Contains(r.plan.o.Only, u.ID))
		if errors.Is(err, failure.Damaged) {
			return nil, &badPack{u, err}
		}
		if err := errors.Join(err, closeUnlessNil(f)); err != nil {
			return nil, err
		}
		for page, h := range ix.Hashes {
			if u.live.Has(uint32(page)) {
				want[h] = true
			}
		}
	}
	var known []packer.Known
	for _, u := range r.plan.Packs {
		if r.going[u.ID] != nil || u.Poor || u.key != r.batch[0].key {
			continue
		}
		k, err := r.soundIn(ctx, u.ID, want)
		if err != nil && !stayBehind(err) {
			return nil, err
		}
		if err == nil && k.Only.Count() > 0 {
			known = append(known, k)
		}
	}
	return known, ctx.Err()
}

func (r *mover) soundIn(ctx context.Context, d digest.Digest, want map[pack.Hash]bool) (packer.Known, error) {
	f, ix, err := openIndex(ctx, r.st, d, false)
	if err != nil {
		return packer.Known{}, err
	}
	defer f.Close()
	only, err := pack.Sound(f, ix, want)
	return packer.Known{Opened: pack.Opened{Digest: d, Index: ix}, Only: only}, err
}

func closeUnlessNil(f pack.ReaderAtCloser) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// replace gives one snapshot maps that name the new packs.
func (r *mover) replace(ctx context.Context, id store.ID) error {
	sn, err := r.st.Get(ctx, id)
	if errors.Is(err, failure.NotFound) {
		return nil // removed since: it needs nothing any more
	}
	if err != nil {
		return err
	}
	if err := contents.Of(r.st, sn).Unlock(ctx); err != nil {
		return err
	}
	next := sn.Spec
	next.Memory, next.Disks = slices.Clone(sn.Spec.Memory), slices.Clone(sn.Spec.Disks)
	for i := range next.Memory {
		if err := r.moveMap(ctx, sn, &next.Memory[i].Map); err != nil {
			return err
		}
	}
	for i := range next.Disks {
		if err := r.moveMap(ctx, sn, &next.Disks[i].Map); err != nil {
			return err
		}
	}
	layers, err := r.layers(sn)
	if err != nil {
		return err
	}
	if err := r.m.Replace(ctx, r.in, sn, next, layers); err != nil {
		return err
	}
	r.res.Snapshots = append(r.res.Snapshots, id)
	return nil
}

// moveMap puts the map with its pages where they are now in the place of d, "" of
// which is a disk without one.
func (r *mover) moveMap(ctx context.Context, sn *store.Snapshot, d *digest.Digest) error {
	if *d == "" {
		return nil
	}
	if now := r.maps[*d]; now != nil {
		*d = now.Digest
		return nil
	}
	old, err := contents.Of(r.st, sn).Map(ctx, *d)
	if err != nil {
		return err
	}
	m, err := r.move.Rewrite(old)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrChanged, err)
	}
	now, err := r.in.PutMap(ctx, m)
	if err != nil {
		return err
	}
	r.maps[*d] = &movedMap{now, m.Packs}
	*d = now.Digest
	return nil
}

// layers of the new manifest: the maps in the places of the old ones, the packs
// that they name, and everything else as it was.
func (r *mover) layers(sn *store.Snapshot) ([]store.Descriptor, error) {
	var packs, rest []store.Descriptor
	named := map[digest.Digest]bool{}
	for _, d := range sn.Spec.PageMaps() {
		for _, p := range r.maps[d].packs {
			if named[p] {
				continue
			}
			named[p] = true
			size, err := sizeOf(r.st, p)
			if err != nil {
				return nil, err
			}
			packs = append(packs, store.Descriptor{MediaType: store.MediaTypePack, Digest: p, Size: size})
		}
	}
	for _, l := range sn.Manifest.Layers {
		switch {
		case l.MediaType == store.MediaTypePack:
		case r.maps[l.Digest] != nil:
			rest = append(rest, r.maps[l.Digest].Descriptor)
		default:
			rest = append(rest, l)
		}
	}
	return append(packs, rest...), nil
}

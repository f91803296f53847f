// Package repack rewrites packs of which little is needed.
//
// The live pages of a pack are those that a page map of any snapshot references.
// If they are few they move: they are stored again in new packs, every snapshot
// that names the old pack gets new page maps, a new spec and a new manifest
// ([store.Maintenance.Replace]), and then nothing names the old pack any more:
// the collector removes it like any blob.
//
// A [Plan] is made without changing anything. [Run] carries it out in steps, each
// whole or not done: new packs, new maps, one exchange per snapshot. If it dies
// on the way it leaves unreferenced blobs, and a store in which some snapshots
// name the new packs and some still the old ones; the next run makes a new plan,
// finds the pages that already moved and continues.
//
// Invariants: no snapshot ever lacks a page that it had; a pack stays while a
// snapshot that names it is in use, in quarantine, or cannot be read, and
// [PackUse] says why.
package repack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/lease"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Options of NewPlan.
type Options struct {
	// Threshold is the live share, 0 to 1, below which a pack is rewritten.
	Threshold float64
	// Without are snapshots that count as gone: a dry run after others plan to
	// remove them.
	Without []store.ID
	// Only are the packs to rewrite, whatever is live of them and whatever is
	// wrong with them. Nil is all, by the threshold; then a snapshot that cannot be
	// read is an error.
	Only []digest.Digest
	// CopyOf gives a page that a pack of Only has lost, by its hash, or false.
	CopyOf func(pack.Hash, []byte) bool
}

// PackUse is one pack and what is needed of it.
type PackUse struct {
	ID            digest.Digest
	Bytes         int64
	Pages, Live   int        // pages in it, and those that a page map names
	ExpectedBytes int64      // of the live pages, when they are stored alone
	Snapshots     []store.ID // that name it
	// Poor packs are to be rewritten. Why is the reason why one stays all the same,
	// "" where it goes, or went.
	Poor bool
	Why  string

	live *pack.Live
	most int64  // bytes that rewriting it may need
	key  string // id of the key of its snapshots
}

// Share of the pages that are live, 0 to 1; an empty pack has none.
func (u *PackUse) Share() float64 { return float64(u.Live) / float64(max(u.Pages, 1)) }

// Needs says whether a page map names the page.
func (u *PackUse) Needs(page uint32) bool { return u.live.Has(page) }

// Plan says what is needed of each pack, the poorest first.
type Plan struct {
	Packs []*PackUse

	st   *store.Store
	o    Options
	uses map[digest.Digest]*PackUse
}

// Use is what is needed of one pack, nil of one that nothing names.
func (p *Plan) Use(d digest.Digest) *PackUse { return p.uses[d] }

// NewPlan looks at every snapshot, page map and pack index.
func NewPlan(ctx context.Context, st *store.Store, o Options) (*Plan, error) {
	live, err := st.Leases().Live(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{st: st, o: o, uses: map[digest.Digest]*PackUse{}}
	maps := map[mapUnder]bool{}
	for sn, err := range st.List(ctx) {
		if err != nil {
			if o.Only != nil {
				continue // its packs stay, for a collector takes nothing while it cannot be read
			}
			return nil, err
		}
		if slices.Contains(o.Without, sn.ID) {
			continue
		}
		if err := p.count(ctx, sn, live, maps); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, u := range p.uses {
		if err := p.measure(ctx, u); err != nil {
			return nil, err
		}
		p.Packs = append(p.Packs, u)
	}
	slices.SortFunc(p.Packs, func(a, b *PackUse) int { return cmp.Or(cmp.Compare(a.Share(), b.Share()), cmp.Compare(a.ID, b.ID)) })
	return p, nil
}

// count adds what one snapshot needs.
func (p *Plan) count(ctx context.Context, sn *store.Snapshot, live []lease.Holding, seen map[mapUnder]bool) error {
	stays := ""
	if who := lease.HeldBy(live, "", sn.ID, sn.Manifest.Config.Digest); who != "" {
		stays = fmt.Sprintf("snapshot %s is in use by: %s", sn.ID, who)
	}
	if sn.Meta.Quarantine != nil && p.o.Only == nil {
		stays = fmt.Sprintf("snapshot %s is quarantined", sn.ID)
	}
	err := contents.Of(p.st, sn).Unlock(ctx)
	if err != nil {
		if !stayBehind(err) {
			return err
		}
		stays = err.Error()
	}
	for _, d := range sn.Spec.PageMaps() {
		if seen[mapUnder{sn.Spec.Key, d}] || err != nil {
			continue
		}
		m, err := contents.Of(p.st, sn).Map(ctx, d)
		if stayBehind(err) {
			stays = fmt.Sprintf("snapshot %s: %v", sn.ID, err)
			continue
		}
		if err != nil {
			return err
		}
		seen[mapUnder{sn.Spec.Key, d}] = true
		m.MarkLive(func(d digest.Digest) *pack.Live { return p.use(d).live })
	}
	for _, l := range sn.Manifest.Layers {
		if l.MediaType != store.MediaTypePack {
			continue
		}
		u := p.use(l.Digest)
		u.Bytes = l.Size
		if len(u.Snapshots) > 0 && u.key != sn.Spec.Key {
			stays = "snapshots of different keys name it"
		}
		u.key = sn.Spec.Key
		u.Snapshots = append(u.Snapshots, sn.ID)
		if stays != "" {
			u.Why = stays
		}
	}
	return nil
}

// mapUnder is a page map that was read for snapshots of one key.
type mapUnder struct {
	key string
	d   digest.Digest
}

// stayBehind are errors for which packs stay as they are: what is damaged is
// for a repair, what is encrypted for who has the key.
func stayBehind(err error) bool {
	return errors.Is(err, failure.Damaged) || keyring.IsMissing(err)
}

func (p *Plan) use(d digest.Digest) *PackUse {
	u := p.uses[d]
	if u == nil {
		u = &PackUse{ID: d, live: &pack.Live{}}
		p.uses[d] = u
	}
	return u
}

// measure compares what is needed of a pack with what it holds.
func (p *Plan) measure(ctx context.Context, u *PackUse) error {
	u.Live = u.live.Count()
	asked := slices.Contains(p.o.Only, u.ID)
	f, ix, err := openIndex(ctx, p.st, u.ID, asked)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		u.Pages = len(ix.Hashes)
		u.ExpectedBytes, u.most, err = ix.LiveBytes(u.live)
	}
	if err != nil && !stayBehind(err) {
		return err
	}
	u.Poor = asked || p.o.Only == nil && err == nil && u.Share() < p.o.Threshold
	if err != nil && u.Why == "" {
		u.Why = err.Error()
	}
	return nil
}

// openIndex opens a pack; rebuild rebuilds a lost index from its frames.
func openIndex(ctx context.Context, st *store.Store, d digest.Digest, rebuild bool) (pack.ReaderAtCloser, *pack.Index, error) {
	f, size, err := st.OpenPack(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	ix, err := pack.ReadIndex(f, size, st)
	if rebuild && errors.Is(err, failure.Damaged) {
		ix, err = pack.Reindex(f, size, st)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pack %s: %w", d, err), f.Close())
	}
	return f, ix, nil
}

// todo are the packs that are to be rewritten and can be, those of one key next to
// each other.
func (p *Plan) todo() (out []*PackUse) {
	for _, u := range p.Packs {
		if u.Poor && u.Why == "" {
			out = append(out, u)
		}
	}
	slices.SortStableFunc(out, func(a, b *PackUse) int { return cmp.Compare(a.key, b.key) })
	return out
}

package restore

import (
	"context"
	"errors"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// stored is the total size of images.
func stored(images []sized) (sum int64) {
	for _, d := range images {
		sum += d.stored
	}
	return sum
}

// need is the space that a mode takes: for each VM, and once for all of them.
func (p *Plan) need(m Mode, f findings) (each, once int64) {
	each = stored(p.disks)
	switch {
	case m == Copy:
		each += p.ram.stored
	case m == Map && !f.cached:
		once = p.ram.stored
	}
	return each, once
}

// fits says whether there is space for a mode, and how much of the cache has to
// go for it.
func (p *Plan) fits(r Request, f findings, m Mode) (frees int64, ok bool) {
	each, once := p.need(m, f)
	missing := each*int64(max(r.Clones, 1)) + once - f.room.Free - f.room.Dead
	return max(missing, 0), missing <= f.room.Cached
}

// decideRoom refuses what does not fit.
func (p *Plan) decideRoom(r Request, f findings) error {
	p.NeedBytes, p.SharedBytes = p.need(p.Mode, f)
	var ok bool
	if p.FreesBytes, ok = p.fits(r, f, p.Mode); ok {
		return nil
	}
	clones := int64(max(r.Clones, 1))
	return failure.Hint(failure.New(failure.NoSpace, "%d bytes may be needed for snapshot %s, %d are free and %d more can be freed",
		p.NeedBytes*clones+p.SharedBytes, p.SnapshotID, f.room.Free, f.room.Dead+f.room.Cached), "remove snapshots and run "+hint.Collect.Of())
}

// makeRoom frees what the plans say, and checks again: the plans may be old.
func (e *Engine) makeRoom(ctx context.Context, lease *store.Lease, plans ...*Plan) error {
	var need int64
	for i, p := range plans {
		if p.Mode == Map { // what is there already must not go
			if err := lease.Hold(ctx, ramcache.Key(p.snapshot)); err != nil {
				return err
			}
		}
		need += p.NeedBytes
		if i == 0 || p.SnapshotID != plans[0].SnapshotID {
			need += p.SharedBytes
		}
	}
	err := e.Store.Space().Require(need)
	if !errors.Is(err, failure.NoSpace) {
		return err
	}
	if terr := e.cache().Free(ctx, need); terr != nil {
		return errors.Join(err, terr)
	}
	return e.Store.Space().Require(need)
}

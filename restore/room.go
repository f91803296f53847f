package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
)

// sized is an image of a snapshot: how large it is, and what of it is not zeros
// and takes room as a sparse file.
type sized struct{ bytes, stored int64 }

// measure reads from the page maps how large everything is, and what it takes.
func (e *Engine) measure(ctx context.Context, p *Plan) error {
	p.MemoryBytes, p.DiskBytes, p.disks, p.ram = 0, 0, nil, sized{}
	for _, m := range p.snapshot.Spec.Memory {
		n, err := e.sizeOf(ctx, p.snapshot, m.Map)
		if err != nil {
			return fmt.Errorf("RAM at %#x of snapshot %s: %w", m.GPA, p.SnapshotID, err)
		}
		p.ram.bytes, p.ram.stored = p.ram.bytes+n.bytes, p.ram.stored+n.stored
	}
	p.MemoryBytes = p.ram.bytes
	for _, d := range p.snapshot.Spec.Disks {
		var n sized
		if d.Image == "" {
			var err error
			if n, err = e.sizeOf(ctx, p.snapshot, d.Map); err != nil {
				return fmt.Errorf("disk %d of snapshot %s: %w", d.Index, p.SnapshotID, err)
			}
		}
		p.disks = append(p.disks, n)
		p.DiskBytes += n.bytes
	}
	return nil
}

func (e *Engine) sizeOf(ctx context.Context, sn *store.Snapshot, m digest.Digest) (sized, error) {
	pages, err := e.Store.ReadMap(ctx, sn, m)
	if err != nil {
		return sized{}, err
	}
	_, stored := pages.Stat()
	return sized{int64(pages.Bytes), int64(stored) * pack.PageSize}, nil
}

// storedDisks is what the disks of one VM take.
func (p *Plan) storedDisks() (sum int64) {
	for _, d := range p.disks {
		sum += d.stored
	}
	return sum
}

// need is the room that a mode takes: each VM, and all of them once.
func (p *Plan) need(m Mode, f findings) (each, once int64) {
	each = p.storedDisks()
	switch {
	case m == Copy:
		each += p.ram.stored
	case m == Map && !f.cached:
		once = p.ram.stored
	}
	return each, once
}

// fits tells whether there is room for a mode, and how much of the cache has to
// give way for it.
func (p *Plan) fits(r Request, f findings, m Mode) (frees int64, ok bool) {
	each, once := p.need(m, f)
	missing := each*int64(max(r.Clones, 1)) + once - f.room.Free - f.room.Dead
	return max(missing, 0), missing <= f.room.Cached
}

// decideRoom refuses what there is no room for.
func (p *Plan) decideRoom(r Request, f findings) error {
	p.NeedBytes, p.SharedBytes = p.need(p.Mode, f)
	var ok bool
	if p.FreesBytes, ok = p.fits(r, f, p.Mode); ok {
		return nil
	}
	clones := int64(max(r.Clones, 1))
	return failure.Hint(failure.New(failure.NoSpace, "%d bytes may be needed for snapshot %s, %d are free and %d more can be freed",
		p.NeedBytes*clones+p.SharedBytes, p.SnapshotID, f.room.Free, f.room.Dead+f.room.Cached), "remove snapshots and run cocoon gc")
}

// makeRoom does what the plans say has to give way, and looks again: the plans
// may be old.
func (e *Engine) makeRoom(ctx context.Context, lease *store.Lease, plans ...*Plan) error {
	var need int64
	for i, p := range plans {
		if p.Mode == Map { // what is there already must not go
			if err := lease.Hold(ctx, store.MemoryKey(p.snapshot)); err != nil {
				return err
			}
		}
		need += p.NeedBytes
		if i == 0 || p.SnapshotID != plans[0].SnapshotID {
			need += p.SharedBytes
		}
	}
	err := e.Store.Require(need)
	if !errors.Is(err, failure.NoSpace) {
		return err
	}
	if terr := e.Store.FreeCache(ctx, need); terr != nil {
		return errors.Join(err, terr)
	}
	return e.Store.Require(need)
}

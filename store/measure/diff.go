package measure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Difference compares one RAM range or disk of two snapshots.
type Difference struct {
	Kind         string `json:"kind"` // memory or disk
	Where        string `json:"where"`
	Bytes        int64  `json:"bytes"`        // of the longer one
	ChangedBytes int64  `json:"changedBytes"` // in whole pages; all of it where only one has it
}

// Diff compares two snapshots page by page without reading a page: RAM ranges
// by guest address, disks by device id. A lease of the caller holds both.
func Diff(ctx context.Context, st *store.Store, a, b *store.Snapshot) ([]Difference, error) {
	var out []Difference
	add := func(kind, where string, ia, ib side) error {
		d, err := diff(ctx, st, ia, ib)
		if err != nil {
			return fmt.Errorf("compare %s %s: %w", kind, where, err)
		}
		d.Kind, d.Where = kind, where
		out = append(out, d)
		return nil
	}
	rangesA, rangesB := rangesOf(st, a), rangesOf(st, b)
	for _, gpa := range unionKeys(rangesA, rangesB) {
		if err := add("memory", gpa, rangesA[gpa], rangesB[gpa]); err != nil {
			return nil, err
		}
	}
	disksA, disksB := disksOf(st, a), disksOf(st, b)
	for _, id := range unionKeys(disksA, disksB) {
		if da, db := disksA[id], disksB[id]; da.image != "" && da.image == db.image {
			continue // the same read-only image
		}
		if err := add("disk", id, disksA[id], disksB[id]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// side opens one side of a comparison. The zero value is a side that does
// not exist; image is set for a disk that is an image blob, which has no pages.
type side struct {
	open  func(context.Context) (*pack.Image, error)
	bytes int64
	image string
}

func rangesOf(st *store.Store, sn *store.Snapshot) map[string]side {
	out := map[string]side{}
	for i, m := range sn.Spec.Memory {
		out[fmt.Sprintf("%#012x", m.GPA)] = side{
			open:  func(ctx context.Context) (*pack.Image, error) { return contents.Of(st, sn).Memory(ctx, i) },
			bytes: int64(m.Bytes),
		}
	}
	return out
}

func disksOf(st *store.Store, sn *store.Snapshot) map[string]side {
	out := map[string]side{}
	for i, d := range sn.Spec.Disks {
		o := side{bytes: d.Bytes, image: string(d.Image)}
		if d.Map != "" {
			o.open = func(ctx context.Context) (*pack.Image, error) { return contents.Of(st, sn).Disk(ctx, i) }
		}
		out[d.DeviceID.String()] = o
	}
	return out
}

func diff(ctx context.Context, st *store.Store, a, b side) (Difference, error) {
	d := Difference{Bytes: max(a.bytes, b.bytes)}
	if a.open == nil || b.open == nil {
		d.ChangedBytes = d.Bytes
		return d, nil
	}
	ia, err := a.open(ctx)
	if err != nil {
		return d, err
	}
	defer ia.Close()
	ib, err := b.open(ctx)
	if err != nil {
		return d, err
	}
	defer ib.Close()
	c, err := pack.Compare(ctx, ia, ib)
	d.ChangedBytes = min(d.Bytes, int64(c.Changed)*pack.PageSize)
	return d, errors.Join(err, ctx.Err())
}

func unionKeys(a, b map[string]side) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

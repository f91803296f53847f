package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Alike says whether two specs differ in their page maps at most, which are
// others where pages were moved.
func Alike(a, b *store.Spec) (bool, error) {
	ja, err := json.Marshal(withoutMaps(*a))
	if err != nil {
		return false, err
	}
	jb, err := json.Marshal(withoutMaps(*b))
	return bytes.Equal(ja, jb), err
}

func withoutMaps(sp store.Spec) store.Spec {
	sp.Memory, sp.Disks = slices.Clone(sp.Memory), slices.Clone(sp.Disks)
	for i := range sp.Memory {
		sp.Memory[i].Map = ""
	}
	for i := range sp.Disks {
		sp.Disks[i].Map = ""
	}
	return sp
}

// Same says whether two snapshots are one, in whatever packs their pages stand:
// their specs are alike and every page has the same hash. No page is read. The
// blobs of both are here.
func Same(ctx context.Context, st *store.Store, a, b *store.Snapshot) (bool, error) {
	same, err := Alike(&a.Spec, &b.Spec)
	if !same || err != nil {
		return false, err
	}
	if err := errors.Join(contents.Of(st, a).Unlock(ctx), contents.Of(st, b).Unlock(ctx)); err != nil {
		return false, err
	}
	for i, x := range a.Spec.Memory {
		if x == b.Spec.Memory[i] {
			continue
		}
		open := func(sn *store.Snapshot) (*pack.Image, error) { return contents.Of(st, sn).Memory(ctx, i) }
		if same, err := samePages(ctx, a, b, open); !same || err != nil {
			return false, err
		}
	}
	for i, x := range a.Spec.Disks {
		if x.Image != "" || x.Map == b.Spec.Disks[i].Map {
			continue // the specs name the same image, or the same pages
		}
		open := func(sn *store.Snapshot) (*pack.Image, error) { return contents.Of(st, sn).Disk(ctx, i) }
		if same, err := samePages(ctx, a, b, open); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

func samePages(ctx context.Context, a, b *store.Snapshot, open func(*store.Snapshot) (*pack.Image, error)) (bool, error) {
	ia, err := open(a)
	if err != nil {
		return false, fmt.Errorf("snapshot %s: %w", a.ID, err)
	}
	defer ia.Close()
	ib, err := open(b)
	if err != nil {
		return false, fmt.Errorf("snapshot %s: %w", b.ID, err)
	}
	defer ib.Close()
	same, err := pack.Same(ctx, ia, ib)
	if err != nil {
		return false, fmt.Errorf("compare pages of snapshots %s and %s: %w", a.ID, b.ID, err)
	}
	return same, nil
}

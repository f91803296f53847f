package gc

import (
	"context"
	"slices"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store"
)

// Examination is what a collection would report as odd, found without a
// collection.
type Examination struct {
	Lost  []Lost
	Disks []string // ids of VMs that have disks and no record
}

// Examine checks a store for a health report.
func Examine(ctx context.Context, st *store.Store, sources []garbage.Source) (e Examination, err error) {
	if e.Lost, err = Missing(ctx, st, sources); err != nil {
		return e, err
	}
	live, err := st.Leases().Live(ctx)
	if err != nil {
		return e, err
	}
	made := map[garbage.Key]bool{}
	for _, h := range live {
		for _, id := range h.VMs {
			if key, ok := garbage.VMKey(id); ok {
				made[key] = true
			}
		}
	}
	for _, src := range sources {
		if src.Doubts == nil {
			continue
		}
		err := src.Doubts(ctx, func(k garbage.Key) bool { return made[k] }, func(d garbage.Doubt) {
			if d.Kind == garbage.VM {
				e.Disks = append(e.Disks, d.ID)
			}
		})
		if err != nil {
			return e, err
		}
	}
	slices.Sort(e.Disks)
	return e, nil
}

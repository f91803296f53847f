package gc

import (
	"context"
	"slices"

	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// Examination is what a collection would find odd; it is made without one.
type Examination struct {
	Lost  []Lost
	Disks []string // ids of VMs that have disks and no record
}

// Examine looks at a store for somebody who asks how it is.
func Examine(ctx context.Context, st *store.Store, sources []store.Source) (e Examination, err error) {
	if e.Lost, err = Missing(ctx, st, sources); err != nil {
		return e, err
	}
	live, err := st.LeaseHoldings(ctx)
	if err != nil {
		return e, err
	}
	err = store.EachEntry(st.Path("vms"), func(name []byte, _ uint64) {
		id := string(name)
		if _, ok := parseObject("vm:" + id); !ok || slices.ContainsFunc(live, func(h store.Holding) bool { return slices.Contains(h.VMs, id) }) {
			return
		}
		r, err := vm.LookAt(st.Path("vms", id))
		if err == nil && r.Worth && !r.Recorded && !r.Making && !exists(st.Path("vms", id, store.SleepFile)) {
			e.Disks = append(e.Disks, id)
		}
	})
	slices.Sort(e.Disks)
	return e, err
}

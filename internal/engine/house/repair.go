package house

import (
	"context"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/repair"
)

// Damaged counts what repair.Verify finds by structure alone.
func Damaged(ctx context.Context, st *store.Store) (int, error) {
	rep, err := repair.Verify(ctx, st, nil, repair.VerifyOptions{})
	if err != nil {
		return 0, err
	}
	return len(rep.Damaged), nil
}

// RawCopies are the files in which pages of a snapshot may be found: its
// materialised RAM, in the cache or linked by a VM, and the disks of the VM it
// was taken from and of its clones.
func (h *House) RawCopies(ctx context.Context, sn *store.Snapshot) []repair.RawCopy {
	var out []repair.RawCopy
	ram := func(path string) {
		var offset int64
		for _, m := range sn.Spec.Memory {
			out = append(out, repair.RawCopy{Path: path, Offset: offset, Map: m.Map})
			offset += int64(m.Bytes)
		}
	}
	ram(ramcache.Path(h.Store, ramcache.Key(sn)))
	vms, err := h.VMs.List(ctx)
	if err != nil {
		return out // a record that cannot be read costs copies, not the repair
	}
	for _, rec := range vms {
		if rec.ID != sn.Spec.VM.ID && rec.Snapshot != string(sn.ID) {
			continue
		}
		ram(filepath.Join(h.VMs.Dir(rec.ID), vm.MemoryBase))
		for _, d := range rec.Disks {
			if d.File == "" || d.Index >= len(sn.Spec.Disks) || sn.Spec.Disks[d.Index].Map == "" {
				continue
			}
			out = append(out, repair.RawCopy{Path: filepath.Join(h.VMs.Dir(rec.ID), d.File), Map: sn.Spec.Disks[d.Index].Map})
		}
	}
	return out
}

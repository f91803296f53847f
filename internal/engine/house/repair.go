package house

import (
	"context"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/repair"
)

// RepairOptions of Repair.
type RepairOptions struct {
	DryRun    bool
	From      string // REGISTRY/NAME to fetch damaged blobs from; "": nowhere
	PlainHTTP bool
}

// Repair reads everything back and makes damaged objects sound if possible. If
// some remain, the report comes with an error, failure.Damaged.
func (h *House) Repair(ctx context.Context, o RepairOptions) (*repair.Report, error) {
	ro := repair.Options{DryRun: o.DryRun, Copies: h.RawCopies}
	if o.From != "" {
		m, err := h.mover(Transfer{PlainHTTP: o.PlainHTTP})
		if err == nil {
			err = m.Repository(o.From)
		}
		if err != nil {
			return nil, err
		}
		ro.Fetch = m.BlobSource(o.From)
	}
	rep, err := repair.Run(ctx, h.Store, ro)
	if err != nil {
		return nil, err
	}
	if n := len(rep.Left); n > 0 {
		err = failure.Hint(failure.New(failure.Damaged, "%d objects could not be repaired", n), "import or pull the snapshots again, or remove them")
	}
	return rep, err
}

// Remake recreates what a store needs to be opened, before it is.
func (s Settings) Remake(ctx context.Context, dryRun bool) (actions []repair.Action, err error) {
	made, err := layout.Remake(ctx, s.Of("rootDir"), dryRun)
	for _, m := range made {
		actions = append(actions, repair.Action{Object: m.Object, What: m.How})
	}
	return actions, err
}

// Verify checks snapshots, or all if none is given; the damage is in the report.
func (h *House) Verify(ctx context.Context, ids []store.ID, o repair.VerifyOptions) (*repair.VerifyReport, error) {
	return repair.Verify(ctx, h.Store, ids, o)
}

// damaged counts what repair.Verify finds by structure alone.
func damaged(ctx context.Context, st *store.Store) (int, error) {
	rep, err := repair.Verify(ctx, st, nil, repair.VerifyOptions{})
	if err != nil {
		return 0, err
	}
	return len(rep.Damaged), nil
}

// RawCopies are the files that may contain pages of a snapshot: its RAM file, in
// the cache or linked by a VM, and the disks of the VM it was taken from and of
// its clones.
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
		return out // an unreadable record costs copies, not the repair
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

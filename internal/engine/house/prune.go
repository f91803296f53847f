package house

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// PruneReport is the result of `snapshot prune`, with the keys of its JSON.
type PruneReport struct {
	DryRun      bool       `json:"dryRun"`
	Decisions   []PruneRow `json:"decisions"`
	StoredBytes int64      `json:"storedBytes"` // blobs of the snapshots that stay, each once
	FreeBytes   int64      `json:"freeBytes"`   // what gc may free: blobs named only by removed ones

	Decided []policy.Decision `json:"-"` // the same, as the policy has it
}

// PruneRow is one decision. Error says why a snapshot could not be removed.
type PruneRow struct {
	ID      store.ID    `json:"id"`
	Name    string      `json:"name"`
	VM      store.VMRef `json:"vm"`
	Created time.Time   `json:"created"`
	Group   string      `json:"group"`
	Action  string      `json:"action"` // keep, remove
	Reasons []string    `json:"reasons"`
	Error   string      `json:"error,omitempty"`

	Idle bool `json:"-"` // left to gc
}

// Prune applies a policy to the store. The report is valid even with an error:
// what could be removed is gone.
func (h *House) Prune(ctx context.Context, rules policy.Rules, dryRun bool) (*PruneReport, error) {
	all, err := h.candidates(ctx, func(index.Summary) bool { return true })
	if err != nil {
		return nil, err
	}
	res := policy.Decide(all, rules, time.Now())
	rep := &PruneReport{DryRun: dryRun, Decisions: []PruneRow{}, Decided: res.Decisions, StoredBytes: res.Bytes, FreeBytes: policy.Bytes(all) - res.Bytes}
	var errs []error
	for _, d := range res.Decisions {
		row := decisionRow(d)
		if !d.Keep && !dryRun {
			if err := h.removePruned(ctx, row.ID); err != nil {
				row.Error = oneLine(err)
				errs = append(errs, err)
			}
		}
		rep.Decisions = append(rep.Decisions, row)
	}
	if rules.MaxBytes > 0 && res.Bytes > rules.MaxBytes {
		errs = append(errs, failure.Hint(
			failure.New(failure.Conflict, "%s stay, above the limit of %s: the newest of each VM and protected snapshots are not removed for space", units.BytesSize(float64(res.Bytes)), units.BytesSize(float64(rules.MaxBytes))),
			"unprotect or remove snapshots by hand, or raise the limit"))
	}
	return rep, errors.Join(errs...)
}

// removePruned treats one that is already gone as removed.
func (h *House) removePruned(ctx context.Context, id store.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := h.Store.Remove(ctx, id, store.RemoveOptions{})
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	return err
}

func decisionRow(d policy.Decision) PruneRow {
	s := d.Snapshot
	return PruneRow{
		ID: store.ID(s.ID), Name: s.Name, VM: vmRef(s.VM, s.VMName), Created: s.Created, Group: d.Group,
		Action: map[bool]string{true: "keep", false: "remove"}[d.Keep], Reasons: d.Reasons, Idle: s.Idle(),
	}
}

// candidates are the snapshots a policy decides about, with their blobs.
func (h *House) candidates(ctx context.Context, want func(index.Summary) bool) ([]policy.Snapshot, error) {
	rows, err := h.Store.Index().Summaries(ctx)
	if err != nil {
		return nil, err
	}
	sleepers, err := sleep.Sleepers(h.Store)
	if err != nil {
		return nil, err
	}
	var out []policy.Snapshot
	for _, row := range rows {
		if !want(row) {
			continue
		}
		c, err := h.candidate(ctx, row)
		if errors.Is(err, failure.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if who, ok := sleepers[row.ID]; ok {
			c.Needed = who.String()
		}
		out = append(out, c)
	}
	return out, nil
}

// candidate reads the snapshot that a row says is ready. Where it is damaged the row
// was made before that, and the plan is the one of what can be read of it now.
func (h *House) candidate(ctx context.Context, row index.Summary) (policy.Snapshot, error) {
	if row.State != store.Ready {
		return ofRow(row), nil
	}
	sn, err := h.Store.Get(ctx, row.ID)
	if errors.Is(err, failure.Damaged) || errors.Is(err, failure.Incompatible) || errors.Is(err, failure.NotFound) {
		row, err = h.Store.Index().Afresh(ctx, row.ID)
		c := ofRow(row)
		c.Damaged = true
		return c, err
	}
	if err != nil {
		return policy.Snapshot{}, err
	}
	c := ofRow(row)
	c.Foreign, c.Created = sn.Foreign(), sn.Came()
	for _, d := range append([]store.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
		c.Blobs = append(c.Blobs, policy.Blob{Digest: string(d.Digest), Bytes: d.Size})
	}
	return c, nil
}

func ofRow(row index.Summary) policy.Snapshot {
	return policy.Snapshot{
		ID: string(row.ID), Name: row.Name, VM: vmKey(row.VM), VMName: row.VM.Name, Created: row.Created,
		Expires: row.Expires, Labels: row.Labels, Protected: row.Protected, Damaged: row.State != store.Ready, Bed: sleep.IsBed(row.Name, row.Labels, row.Protected),
	}
}

const importedKey = "imported:"

// vmKey is the id, since names are reused; an imported folder has only a name.
func vmKey(vm store.VMRef) string {
	if vm.ID != "" {
		return vm.ID
	}
	return importedKey + vm.Name
}

func vmRef(key, name string) store.VMRef {
	if strings.HasPrefix(key, importedKey) {
		key = ""
	}
	return store.VMRef{ID: key, Name: name}
}

// Trim removes all but the newest keep of sn's VM; protected ones do not count.
func (h *House) Trim(ctx context.Context, sn *store.Snapshot, keep int) error {
	if keep == 0 {
		return nil
	}
	all, err := h.candidates(ctx, func(s index.Summary) bool { return s.VM.ID == sn.Spec.VM.ID })
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range policy.Decide(all, policy.Rules{MaxPerVM: keep}, time.Now()).Decisions {
		if d.Keep || d.Snapshot.Foreign { // whatever VM that says it is of
			continue
		}
		if err := h.removePruned(ctx, store.ID(d.Snapshot.ID)); err != nil {
			errs = append(errs, fmt.Errorf("%s %d: %w", hint.Max, keep, err))
		}
	}
	return errors.Join(errs...)
}

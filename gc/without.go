package gc

import "slices"

// Without turns the report of an explained dry run into the plan of a run after
// the removal of these snapshots: what only they hold moves from Kept to Removed.
func (r *Report) Without(snapshots []string) {
	r.Kept = slices.DeleteFunc(r.Kept, func(k Kept) bool {
		if slices.ContainsFunc(k.by, func(h holder) bool { return h.snapshot == "" || !slices.Contains(snapshots, h.snapshot) }) {
			return false
		}
		r.Removed = append(r.Removed, Removed{k.Kind, k.ID, k.Bytes, "only snapshots that go name it"})
		r.ReclaimedBytes += k.Bytes
		return true
	})
}

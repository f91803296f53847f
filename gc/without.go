package gc

import (
	"slices"
	"strings"
)

// Without turns the report of an explained dry run into the plan of a run that
// follows the removal of these snapshots: what only they hold moves from Kept
// to Removed.
func (r *Report) Without(snapshots []string) {
	r.Kept = slices.DeleteFunc(r.Kept, func(k Kept) bool {
		for _, h := range k.Holders {
			if !slices.ContainsFunc(snapshots, func(id string) bool { return isSnapshot(h, id) }) {
				return false
			}
		}
		r.Removed = append(r.Removed, Removed{k.Kind, k.ID, k.Bytes, "only snapshots that go name it"})
		r.ReclaimedBytes += k.Bytes
		return true
	})
}

// isSnapshot tells whether mark wrote holder for the snapshot of this id.
func isSnapshot(holder, id string) bool {
	return holder == "snapshot "+id || (strings.HasPrefix(holder, "snapshot ") && strings.HasSuffix(holder, " ("+id+")"))
}

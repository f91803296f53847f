package house

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// SharedNames are names that several snapshots have: of snapshots that were put
// there, or whose link was removed, by hand. Each line has a name and its snapshots.
func (h *House) SharedNames(ctx context.Context) (lines []string, err error) {
	all, err := h.Store.Index().Summaries(ctx)
	if err != nil {
		return nil, err
	}
	having := map[string][]string{}
	for _, s := range all {
		if s.Name != "" {
			having[s.Name] = append(having[s.Name], string(s.ID))
		}
	}
	for name, ids := range having {
		if len(ids) > 1 {
			slices.Sort(ids)
			lines = append(lines, fmt.Sprintf("%s (%s)", name, strings.Join(ids, ", ")))
		}
	}
	slices.Sort(lines)
	return lines, nil
}

package names

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/layout"
)

// linkedAll lists the names that have a link, sorted. What else lies in the
// folder is not ours.
func (n *Names) linkedAll() ([]string, error) {
	var all []string
	err := layout.EachEntry(n.at.Path(layout.Names), func(name []byte, _ uint64) {
		if spelling.CheckSnapshotName(string(name)) == nil {
			all = append(all, string(name))
		}
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list names: %w", err)
	}
	slices.Sort(all)
	return all, nil
}

// Stale lists the names whose link leads to no snapshot with that name. known are
// names of snapshots that were read recently: those are not read again.
func (n *Names) Stale(known map[layout.ID]string) ([]string, error) {
	all, err := n.linkedAll()
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, name := range all {
		id, err := n.linked(name)
		if err != nil {
			return nil, err
		}
		if id != "" && known[id] == name {
			continue
		}
		nobodys, err := n.nobodys(name)
		if err != nil {
			return nil, err
		}
		if nobodys {
			stale = append(stale, name)
		}
	}
	return stale, nil
}

// Tidy removes stale links, each checked again, and makes links that are missing
// according to known. It returns the names whose links it removed.
func (n *Names) Tidy(ctx context.Context, stale []string, known map[layout.ID]string) (removed []string, err error) {
	for _, name := range stale {
		err := n.Lock(ctx, func() error {
			if n.Drop(name) {
				removed = append(removed, name)
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
	}
	whole := n.Whole()
	for id, name := range known {
		if !whole {
			break
		}
		if name != "" && spelling.CheckSnapshotName(name) == nil {
			to, err := n.linked(name)
			if err != nil {
				return removed, err
			}
			whole = to == id
		}
	}
	if whole {
		return removed, nil
	}
	return removed, n.Complete(ctx)
}

// Complete makes the missing links. A store that cannot be written keeps those it
// has.
func (n *Names) Complete(ctx context.Context) error {
	err := n.Lock(ctx, n.complete)
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// ByLink is the name whose link leads to a snapshot that cannot say it itself.
// Of two, as a rename leaves them that died half-way, it is the one that is
// preferred.
func (n *Names) ByLink(id layout.ID, preferred string) string {
	all, err := n.linkedAll()
	if err != nil {
		return ""
	}
	var found []string
	for _, name := range all {
		if to, err := n.linked(name); err == nil && to == id {
			found = append(found, name)
		}
	}
	switch {
	case slices.Contains(found, preferred):
		return preferred
	case len(found) > 0:
		return found[0]
	}
	return ""
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	storelayout "github.com/cocoonv2/cocoon/store/layout"
)

// linkedNames lists the names that have a link, sorted. What else lies in the
// folder is not ours.
func (s *Store) linkedNames() ([]string, error) {
	var all []string
	err := storelayout.EachEntry(s.Path(storelayout.Names), func(name []byte, _ uint64) {
		if n := string(name); ValidateName(n) == nil {
			all = append(all, n)
		}
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list names: %w", err)
	}
	slices.Sort(all)
	return all, nil
}

// StaleNames lists the names whose link leads to no snapshot that has them. known
// are names of snapshots that were read lately: those are not read again.
func (s *Store) StaleNames(known map[ID]string) ([]string, error) {
	all, err := s.linkedNames()
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, name := range all {
		id, err := s.linked(name)
		if err != nil {
			return nil, err
		}
		if id != "" && known[id] == name {
			continue
		}
		nobodys, err := s.nobodys(name)
		if err != nil {
			return nil, err
		}
		if nobodys {
			stale = append(stale, name)
		}
	}
	return stale, nil
}

// TidyNames removes links that are stale, each looked at again, and makes those
// that known shows to be missing. It gives the names whose links it removed.
func (s *Store) TidyNames(ctx context.Context, stale []string, known map[ID]string) (removed []string, err error) {
	for _, name := range stale {
		err := s.names(ctx, func() error {
			if s.dropName(name) {
				removed = append(removed, name)
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
	}
	whole := s.namesWhole()
	for id, name := range known {
		if !whole {
			break
		}
		if name != "" && ValidateName(name) == nil {
			to, err := s.linked(name)
			if err != nil {
				return removed, err
			}
			whole = to == id
		}
	}
	if whole {
		return removed, nil
	}
	return removed, s.RemakeNames(ctx)
}

// RemakeNames makes the links that are missing. A store that cannot be written has
// those that it has.
func (s *Store) RemakeNames(ctx context.Context) error {
	err := s.names(ctx, s.completeNames)
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// nameByLink is the name whose link leads to a snapshot that cannot say it itself.
// Of two, as a rename leaves them that died half-way, it is the one that is
// preferred.
func (s *Store) nameByLink(id ID, preferred string) string {
	all, err := s.linkedNames()
	if err != nil {
		return ""
	}
	var found []string
	for _, name := range all {
		if to, err := s.linked(name); err == nil && to == id {
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

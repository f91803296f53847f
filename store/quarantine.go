package store

import (
	"context"
	"errors"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// quarantineDamaged marks the snapshots that a report names.
func (s *Store) quarantineDamaged(ctx context.Context, rep *VerifyReport) error {
	objects := map[ID][]string{}
	var order []ID
	for _, d := range rep.Damaged {
		for _, id := range d.Affects {
			if objects[id] == nil {
				order = append(order, id)
			}
			objects[id] = append(objects[id], d.Object)
		}
	}
	var errs []error
	for _, id := range order {
		err := s.Quarantine(ctx, id, objects[id])
		switch {
		case errors.Is(err, failure.NotFound): // removed meanwhile
		case errors.Is(err, failure.Damaged): // it cannot be marked, and is refused without
		case err != nil:
			errs = append(errs, err)
		default:
			rep.Quarantined = append(rep.Quarantined, id)
		}
	}
	return errors.Join(errs...)
}

// Release takes the mark from a snapshot that was found sound.
func (s *Store) Release(ctx context.Context, id ID) error {
	return s.SetMeta(ctx, id, func(m *Meta) error { m.Quarantine = nil; return nil })
}

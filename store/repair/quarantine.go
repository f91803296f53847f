package repair

import (
	"context"
	"errors"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// quarantineDamaged marks the snapshots that a report names.
func quarantineDamaged(ctx context.Context, st *store.Store, rep *VerifyReport) error {
	objects := map[store.ID][]string{}
	var order []store.ID
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
		err := st.Quarantine(ctx, id, objects[id])
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
func Release(ctx context.Context, st *store.Store, id store.ID) error {
	return st.SetMeta(ctx, id, func(m *store.Meta) error { m.Quarantine = nil; return nil })
}
